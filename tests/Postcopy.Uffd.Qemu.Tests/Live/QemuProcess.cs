using System.Diagnostics;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>A QEMU under TCG with a stopped guest, in a directory of its own that goes with it.</summary>
internal sealed class QemuProcess : IDisposable
{
    internal const string Binary = "qemu-system-x86_64";
    private readonly Process _process;

    internal QemuProcess(string arguments)
    {
        Directory = System.IO.Directory.CreateTempSubdirectory("postcopy-qemu-").FullName;
        string monitor = Path.Combine(Directory, "qmp");
        _process = Process.Start(new ProcessStartInfo(
            Binary, $"-S -display none -nodefaults -qmp unix:{monitor},server=on,wait=off {arguments.Replace("@DIR@", Directory, StringComparison.Ordinal)}")
        { RedirectStandardError = true, WorkingDirectory = Directory })!;
        try
        {
            Assert.True(SpinWait.SpinUntil(() => File.Exists(monitor) || _process.HasExited, TimeSpan.FromSeconds(20)));
            Assert.False(_process.HasExited, _process.HasExited ? _process.StandardError.ReadToEnd() : "");
            Monitor = new QmpClient(monitor);
        }
        catch
        {
            End();
            throw;
        }
    }

    internal static bool IsInstalled { get; } =
        Environment.GetEnvironmentVariable("PATH")!.Split(':').Any(path => File.Exists(Path.Combine(path, Binary)));

    internal string Directory { get; }

    internal QmpClient Monitor { get; }

    /// <summary>The guest's physical memory as the source sees it.</summary>
    internal byte[] SaveMemory(long length)
    {
        string path = Path.Combine(Directory, "memory");
        Monitor.Execute("pmemsave", $"{{\"val\": 0, \"size\": {length}, \"filename\": \"{path}\"}}");
        return File.ReadAllBytes(path);
    }

    public void Dispose()
    {
        Monitor.Dispose();
        End();
    }

    private void End()
    {
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
        System.IO.Directory.Delete(Directory, recursive: true);
    }
}
