using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>
/// Our destination as docs/performance.md advises for a process that lives as long as one migration: Native AOT, beside C
/// and QEMU, which were compiled before as well. In a second of life a tenth to a half of the processor time of a build with the JIT
/// compiler goes into compiling.
/// </summary>
internal static class NativeDestination
{
    private static readonly Lazy<string> s_program = new(Publish);

    /// <summary>A quick run, whose figures are worth nothing, does without: publishing takes a minute the first time.</summary>
    internal static bool IsUsed { get; set; } = true;

    internal static string Program => s_program.Value;

    private static string Publish()
    {
        string project = typeof(NativeDestination).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().First(a => a.Key == "DestinationProject").Value!;
        string output = Path.Combine(AppContext.BaseDirectory, "native-destination");
        ProcessStartInfo start = new("dotnet",
        [
            "publish", project, "--configuration", "Release", "--runtime", $"linux-{RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant()}", "-p:PublishLabNative=true", "-p:RunAnalyzers=false",
            "--artifacts-path", Path.Combine(output, "build"), "--output", output, "--nologo",
        ])
        { RedirectStandardOutput = true };
        try
        {
            using Process publish = Process.Start(start)!;
            string said = publish.StandardOutput.ReadToEnd();
            publish.WaitForExit();
            return publish.ExitCode == 0
                ? Path.Combine(output, "lab-destination")
                : throw new LabException($"Our destination cannot be published as a native program (that needs NuGet, and apt-get install gcc zlib1g-dev): {said}");
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new LabException($"Our destination is published by 'dotnet', which is not on PATH ({e.Message}).");
        }
    }
}
