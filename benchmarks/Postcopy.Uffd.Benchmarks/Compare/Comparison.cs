using Postcopy.Uffd.Benchmarks.Migrations;
using Postcopy.Uffd.Benchmarks.Rows;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Machine;

namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>Runs the rows that were asked for and publishes what they gave.</summary>
internal static class Comparison
{
    internal static int Run(ComparisonOptions options)
    {
        NativeDestination.IsUsed = !options.Quick;
        Machine machine = Machine.Describe();
        Console.WriteLine(machine);
        Console.WriteLine();
        List<RowResult> results = [];
        int failed = 0;
        foreach (Row row in AllRows.List.Where(r => options.Rows.Contains(r.Name)))
        {
            try
            {
                foreach (RowResult result in row.Measure(options))
                {
                    results.Add(result);
                    ResultTable.WriteLine(Console.Out, result);
                }
            }
            catch (Exception e) when (e is LabException or UffdException or IOException or QemuIncomingException or VmmException or OperationCanceledException)
            {
                // The other rows are still worth having; a row that broke is not passed over in silence.
                Console.WriteLine($"{row.Name}: FAILED: {e.Message}");
                failed++;
            }
        }

        if (options.Quick)
        {
            Console.WriteLine("(tiny sizes: these figures show that the rows run, nothing else)");
        }

        if (options.Json is { } json)
        {
            ResultFile.Write(json.FullName, results);
        }

        if (options.Save is { } save)
        {
            ResultFile.Save(save.FullName, machine, results);
        }

        return failed == 0 ? 0 : 1;
    }
}
