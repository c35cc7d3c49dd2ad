using System.Diagnostics;
using Postcopy.Vmm.Guest;

namespace Postcopy.Vmm.Tests;

public sealed class GuestImageTests
{
    private const string Assembler = "/usr/bin/as";
    private const string Linker = "/usr/bin/ld";

    [Fact]
    public void TheShippedBytesAreTheAssembledSource()
    {
        Requires.Tool(Assembler, "binutils");
        Requires.Tool(Linker, "binutils");
        string source = Path.Combine(RepositoryRoot(), "samples/Postcopy.Vmm/Guest/guest.S");
        DirectoryInfo directory = Directory.CreateTempSubdirectory();
        try
        {
            string o = Path.Combine(directory.FullName, "guest.o");
            string bin = Path.Combine(directory.FullName, "guest.bin");
            Run(Assembler, "-o", o, source);
            Run(Linker, "-Ttext", "0x7c00", "--oformat", "binary", "-o", bin, o);

            Assert.Equal(File.ReadAllBytes(Path.ChangeExtension(source, ".bin")), File.ReadAllBytes(bin));
        }
        finally
        {
            directory.Delete(recursive: true);
        }
    }

    [Fact]
    public void TheFirstSectorIsABootSector()
    {
        byte[] image = new GuestSettings().Image();

        Assert.Equal([0x55, 0xaa], image[510..512]);
        Assert.Equal(2048, image.Length);
    }

    private static void Run(string program, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, UseShellExecute = false })!;
        string errors = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, errors);
    }

    // Not the compiler's path of this file: a deterministic build on a CI machine maps it to "/_/".
    private static string RepositoryRoot()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Postcopy.Uffd.sln")))
        {
            folder = Path.GetDirectoryName(folder);
        }

        return folder ?? throw new InvalidOperationException($"No Postcopy.Uffd.sln above {AppContext.BaseDirectory}.");
    }
}
