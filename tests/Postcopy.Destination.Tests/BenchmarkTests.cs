using System.Text.Json;

namespace Postcopy.Destination.Tests;

/// <summary>The latency lab with tiny sizes: its rows run, and say what they promise. What they measure here is worth nothing.</summary>
public sealed class BenchmarkTests
{
    private const int Limit = 150_000;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(120);

    [Theory(Timeout = Limit)]
    [InlineData("fault-sleep,request-path,place-page,place-stream,place-zero,tracker,alloc,guest-speed")]
    [InlineData("qemu-wall,qemu-cpu,demand")]
    public async Task TheComparisonRunsAndWritesOneMemberARow(string names)
    {
        Assert.SkipWhen(names.Contains("qemu", StringComparison.Ordinal) && !HasQemu, "qemu-system-x86_64 is not installed: apt-get install qemu-system-x86");
        string directory = Directory.CreateTempSubdirectory("postcopy-lab-test-").FullName;
        try
        {
            string file = Path.Combine(directory, "rows.json");
            (int exit, string output, string error) = await RunAsync(
                "compare", "--quick", "--rounds", "1", "--rows", names, "--json", file, "--save", directory);
            Assert.True(exit == 0, error + output);
            using JsonDocument rows = JsonDocument.Parse(await File.ReadAllTextAsync(file, TestContext.Current.CancellationToken));
            foreach (string name in names.Split(','))
            {
                JsonElement row = rows.RootElement.GetProperty(name);
                Assert.Equal(name, row.GetProperty("name").GetString());
                Assert.Equal(1, row.GetProperty("n").GetInt32());
                Assert.InRange(row.GetProperty("ratio").GetDouble(), row.GetProperty("min").GetDouble(), row.GetProperty("max").GetDouble());
                Assert.Contains(row.GetProperty("verdict").GetString(), (string[])["met", "met within A/A", "missed", "reported"]);
            }

            if (rows.RootElement.TryGetProperty("alloc", out JsonElement alloc))
            {
                Assert.Equal(0, alloc.GetProperty("ours").GetDouble());
            }

            string kept = Assert.Single(Directory.GetDirectories(directory));
            Assert.Contains($"| {names.Split(',')[0]} |", await File.ReadAllTextAsync(Path.Combine(kept, "compare.md"), TestContext.Current.CancellationToken), StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    [Theory(Timeout = Limit)]
    [InlineData("growth", "| blocks | 1024 |")]
    [InlineData("waiting", "| 20 | 10000 |")]
    public async Task ACurveRunsAndIsKept(string command, string line)
    {
        string directory = Directory.CreateTempSubdirectory("postcopy-lab-test-").FullName;
        try
        {
            (int exit, string output, string error) = await RunAsync(command, "--quick", "--save", directory);
            Assert.True(exit == 0, error + output);
            string kept = Assert.Single(Directory.GetDirectories(directory));
            Assert.Contains(line, await File.ReadAllTextAsync(Path.Combine(kept, $"{command}.md"), TestContext.Current.CancellationToken), StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    [Fact(Timeout = Limit)]
    public async Task AShortSoakPassesAndKeepsItsResult()
    {
        string directory = Directory.CreateTempSubdirectory("postcopy-lab-test-").FullName;
        try
        {
            (int exit, string output, string error) = await RunAsync("soak", "--minutes", "0.05", "--faults", "500", "--save", directory);
            Assert.True(exit == 0, error + output);
            string file = Path.Combine(Assert.Single(Directory.GetDirectories(directory)), "soak.json");
            using JsonDocument result = JsonDocument.Parse(await File.ReadAllTextAsync(file, TestContext.Current.CancellationToken));
            JsonElement totals = result.RootElement.GetProperty("totals");
            Assert.Equal("passed", result.RootElement.GetProperty("verdict").GetString());
            Assert.True(totals.GetProperty("faults").GetInt64() >= 500);
            Assert.True(totals.GetProperty("pagesChecked").GetInt64() >= 500);
            Assert.True(totals.GetProperty("discards").GetInt64() > 0);
            Assert.Equal(0, totals.GetProperty("pagesWrong").GetInt64());

            // More than there is time for.
            (exit, output, _) = await RunAsync("soak", "--minutes", "0.01", "--faults", "1000000000");
            Assert.Equal(1, exit);
            Assert.Contains("SHORT", output, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    [Theory(Timeout = Limit)]
    [InlineData("--rows", "fault-fast", "--rows: there is no row 'fault-fast'; there are fault-sleep,")]
    [InlineData("--rounds", "0", "--rounds: give 1 to 1000")]
    public async Task AWrongValueIsNamedWithWhatIsAllowed(string option, string value, string message)
    {
        (int exit, _, string error) = await RunAsync("compare", option, value);
        Assert.NotEqual(0, exit);
        Assert.Contains(message, error, StringComparison.Ordinal);
    }

    private static bool HasQemu { get; } =
        Environment.GetEnvironmentVariable("PATH")!.Split(':').Any(path => File.Exists(Path.Combine(path, "qemu-system-x86_64")));

    private static async Task<(int Exit, string Output, string Error)> RunAsync(params string[] arguments)
    {
        using SampleProcess lab = SampleProcess.Start("dotnet", [FindProgram(), .. arguments]);
        int exit = await lab.ExitAsync(s_patience);
        return (exit, lab.Output, lab.Error);
    }

    /// <summary>Built beside this assembly, in the same configuration.</summary>
    private static string FindProgram()
    {
        DirectoryInfo output = new(AppContext.BaseDirectory.TrimEnd('/'));
        string configuration = output.Parent!.Name;
        DirectoryInfo? root = output;
        while (root is not null && !File.Exists(Path.Combine(root.FullName, "Postcopy.Uffd.sln")))
        {
            root = root.Parent;
        }

        return Path.Combine(root!.FullName, "benchmarks/Postcopy.Uffd.Benchmarks/bin", configuration, output.Name, "Postcopy.Uffd.Benchmarks.dll");
    }
}
