using System.Diagnostics;

namespace Postcopy.Vmm.Tests;

/// <summary>Makes a boot sector, and what follows it, from assembler source.</summary>
internal static class GuestAssembler
{
    private const string Assembler = "/usr/bin/as";
    private const string Linker = "/usr/bin/ld";

    /// <summary>Assembles and links for the address at which a BIOS loads it; skips the test without binutils.</summary>
    internal static byte[] Assemble(string source)
    {
        Requires.Tool(Assembler, "binutils");
        Requires.Tool(Linker, "binutils");
        DirectoryInfo directory = Directory.CreateTempSubdirectory("postcopy-guest-");
        try
        {
            string o = Path.Combine(directory.FullName, "guest.o");
            string bin = Path.Combine(directory.FullName, "guest.bin");
            Run(Assembler, "-o", o, source);
            Run(Linker, "-Ttext", "0x7c00", "--oformat", "binary", "-o", bin, o);
            return File.ReadAllBytes(bin);
        }
        finally
        {
            directory.Delete(recursive: true);
        }
    }

    private static void Run(string program, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, UseShellExecute = false })!;
        string errors = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, errors);
    }
}
