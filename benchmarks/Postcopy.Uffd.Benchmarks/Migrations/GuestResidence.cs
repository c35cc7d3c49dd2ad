using System.Globalization;

namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>What a process has of its guest's memory: the largest run of neighbouring mappings by what is resident.</summary>
internal readonly record struct GuestResidence(long Resident, long Huge)
{
    internal static GuestResidence Of(int process)
    {
        GuestResidence best = default;
        GuestResidence run = default;
        ulong runEnd = 0;
        foreach (string line in File.ReadLines($"/proc/{process}/smaps"))
        {
            string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            switch (words[0])
            {
                case "Rss:":
                    run = run with { Resident = run.Resident + Kilobytes(words[1]) };
                    best = run.Resident > best.Resident ? run : best;
                    break;
                case "AnonHugePages:":
                    run = run with { Huge = run.Huge + Kilobytes(words[1]) };
                    best = run.Resident >= best.Resident ? run : best;
                    break;
                case var range when !range.EndsWith(':'):
                    string[] ends = range.Split('-');
                    run = Hex(ends[0]) == runEnd ? run : default;
                    runEnd = Hex(ends[1]);
                    break;
            }
        }

        return best;
    }

    private static long Kilobytes(string number) => long.Parse(number, CultureInfo.InvariantCulture) << 10;

    private static ulong Hex(string number) => ulong.Parse(number, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
}
