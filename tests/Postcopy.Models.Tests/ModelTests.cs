using System.Diagnostics;
using System.Text.RegularExpressions;

namespace Postcopy.Models.Tests;

/// <summary>
/// The protocol's models (<c>tests/models</c>), each searched exhaustively by spin, and again without each of its fences,
/// re-checks and wakes, which must then fail.
/// </summary>
public sealed class ModelTests
{
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(8);

    private static readonly string s_folder = FindFolder();

    public static TheoryData<string> Models => [.. Directory.EnumerateFiles(s_folder, "*.pml").Select(f => Path.GetFileNameWithoutExtension(f)).Order(StringComparer.Ordinal)];

    [Theory(Timeout = 600_000)]
    [MemberData(nameof(Models))]
    public async Task HoldsAndEachThingItNeedsIsNeeded(string model)
    {
        foreach (string program in (string[])["spin", "gcc"])
        {
            Assert.SkipUnless(IsThere(program), $"Needs {program}: apt-get install spin gcc libc6-dev, or eng/install-test-tools.");
        }

        string[] arguments = Environment.GetEnvironmentVariable("POSTCOPY_TESTS") == "full" ? [model] : ["--quick", model];
        using Process check = Process.Start(new ProcessStartInfo(Path.Combine(s_folder, "check"), arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        Task<string> errors = check.StandardError.ReadToEndAsync();
        string told;
        try
        {
            told = await check.StandardOutput.ReadToEndAsync().WaitAsync(s_patience);
            await check.WaitForExitAsync();
        }
        catch (TimeoutException)
        {
            check.Kill(entireProcessTree: true);
            throw;
        }

        TestContext.Current.TestOutputHelper!.WriteLine(told);
        Assert.True(check.ExitCode == 0, told + await errors);
    }

    [Fact]
    public void EverySwitchOfAModelSaysWhereItIsInTheCode()
    {
        string readme = File.ReadAllText(Path.Combine(s_folder, "README.md"));
        string root = Path.GetFullPath(Path.Combine(s_folder, "../.."));
        foreach (string row in readme.Split('\n').Where(l => l.StartsWith("| `", StringComparison.Ordinal)))
        {
            // | `SWITCH` | what | `Type.Method` |
            string method = row.Split('|')[^2].Trim().Trim('`');
            string[] parts = method.Split('.');
            bool found = Directory.EnumerateFiles(Path.Combine(root, "src"), parts[0] + "*.cs", SearchOption.AllDirectories)
                .Any(f => !f.Contains("/obj/", StringComparison.Ordinal) && Regex.IsMatch(File.ReadAllText(f), $@"[ .]{parts[1]}\("));
            Assert.True(found, $"{method}, of the row '{row}', is not in src.");
        }
    }

    private static bool IsThere(string program) =>
        (Environment.GetEnvironmentVariable("PATH") ?? string.Empty).Split(':').Any(f => File.Exists(Path.Combine(f, program)));

    private static string FindFolder()
    {
        string folder = AppContext.BaseDirectory;
        while (!Directory.Exists(Path.Combine(folder, "tests/models")))
        {
            folder = Path.GetDirectoryName(folder) ?? throw new InvalidOperationException("tests/models is in no folder above the tests.");
        }

        return Path.Combine(folder, "tests/models");
    }
}
