using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Postcopy.Uffd.Benchmarks.Migrations;

namespace Postcopy.Uffd.Benchmarks.Compare;

/// <summary>What figures depend on: stands beside them wherever they are kept.</summary>
internal sealed record Machine
{
    public required string Cpu { get; init; }

    public required int Processors { get; init; }

    public required string MemoryGiB { get; init; }

    public required bool Virtual { get; init; }

    public required string Kernel { get; init; }

    public required string HugePages { get; init; }

    public required string Runtime { get; init; }

    public required string Gcc { get; init; }

    public required string Qemu { get; init; }

    /// <summary>The one that eng/get-qemu has fetched; null without one.</summary>
    public string? NewestQemu { get; init; }

    public required string Commit { get; init; }

    public required string Date { get; init; }

    /// <summary>The folder of its results.</summary>
    internal string Folder => $"{Regex.Replace(Cpu.ToLowerInvariant(), "[^a-z0-9]+", "-").Trim('-')}-{Processors}-cpus";

    internal static Machine Describe()
    {
        string[] cpu = File.ReadAllLines("/proc/cpuinfo");
        string model = cpu.Where(l => l.StartsWith("model name", StringComparison.Ordinal)).Select(l => l[(l.IndexOf(':') + 1)..].Trim()).FirstOrDefault()
            ?? RuntimeInformation.ProcessArchitecture.ToString();
        long kilobytes = long.Parse(File.ReadLines("/proc/meminfo").First().Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture);
        return new Machine
        {
            Cpu = model,
            Processors = Environment.ProcessorCount,
            MemoryGiB = (kilobytes / 1048576.0).ToString("0.0", CultureInfo.InvariantCulture),
            Virtual = Array.Exists(cpu, l => l.StartsWith("flags", StringComparison.Ordinal) && l.Contains(" hypervisor", StringComparison.Ordinal)),
            Kernel = File.ReadAllText("/proc/sys/kernel/osrelease").Trim(),
            HugePages = ReadOr("/sys/kernel/mm/transparent_hugepage/enabled", "none"),
            Runtime = RuntimeInformation.FrameworkDescription,
            Gcc = FirstLine("gcc", "--version"),
            Qemu = FirstLine("qemu-system-x86_64", "--version"),
            NewestQemu = QemuMachine.HasNewest ? FirstLine("chroot", $"{QemuMachine.NewestRoot} /usr/bin/{QemuMachine.Program} --version") : null,
            Commit = FirstLine("git", "describe --always --dirty --abbrev=12"),
            Date = DateTime.UtcNow.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture),
        };
    }

    public override string ToString() =>
        $"{Cpu}, {Processors} processors{(Virtual ? " (virtual)" : "")}, {MemoryGiB} GiB, Linux {Kernel}, THP {HugePages}{Environment.NewLine}" +
        $"{Runtime}, {Gcc}, {Qemu}{(NewestQemu is null ? "" : $" and {NewestQemu}")}, commit {Commit}, {Date}";

    private static string ReadOr(string path, string otherwise) => File.Exists(path) ? File.ReadAllText(path).Trim() : otherwise;

    private static string FirstLine(string program, string arguments)
    {
        try
        {
            using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            string line = process.StandardOutput.ReadLine() ?? "?";
            process.WaitForExit();
            return line;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return $"no {program}";
        }
    }
}
