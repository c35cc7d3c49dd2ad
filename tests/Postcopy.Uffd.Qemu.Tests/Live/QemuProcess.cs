namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>A QEMU under TCG, in a directory of its own that goes with it: Debian's own one, or the newest by chroot.</summary>
internal sealed class QemuProcess : IDisposable
{
    internal const string Binary = "qemu-system-x86_64";
    private readonly BoundProcess _process;

    /// <param name="arguments">Of QEMU; @DIR@ is <see cref="Directory"/> as QEMU sees it.</param>
    /// <param name="newest">The one that eng/get-qemu has fetched.</param>
    /// <param name="stopped">The guest does not run.</param>
    /// <param name="content">What @DIR@/content holds.</param>
    internal QemuProcess(string arguments, bool newest = false, bool stopped = true, byte[]? content = null)
    {
        string root = newest ? NewestQemu.Root : "";
        Directory = newest
            ? System.IO.Directory.CreateDirectory($"{root}/tmp/postcopy-{Guid.NewGuid().ToString("N")[..8]}").FullName
            : System.IO.Directory.CreateTempSubdirectory("postcopy-qemu-").FullName;
        Inside = Directory[root.Length..];
        if (content is not null)
        {
            File.WriteAllBytes(Path.Combine(Directory, "content"), content);
        }

        string all = $"{(stopped ? "-S " : "")}-display none -nodefaults -qmp unix:{Inside}/qmp,server=on,wait=off {arguments.Replace("@DIR@", Inside, StringComparison.Ordinal)}";
        _process = BoundProcess.Start($"{(newest ? $"chroot {root} /usr/bin/" : "")}{Binary} {all}", Directory);
        try
        {
            string monitor = Path.Combine(Directory, "qmp");
            Assert.True(SpinWait.SpinUntil(() => File.Exists(monitor) || _process.HasExited, TimeSpan.FromSeconds(20)));
            Assert.False(_process.HasExited, _process.HasExited ? _process.Errors : "");
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

    /// <summary>Where this process finds it.</summary>
    internal string Directory { get; }

    /// <summary>Where QEMU finds it.</summary>
    internal string Inside { get; }

    internal QmpClient Monitor { get; }

    internal static void SkipUnlessThere(bool newest)
    {
        Assert.SkipUnless(newest || IsInstalled, $"{Binary} is not installed: apt-get install qemu-system-x86");
        Assert.SkipUnless(!newest || NewestQemu.IsThere, $"the newest QEMU is not in {NewestQemu.Root}: run eng/get-qemu as root");
    }

    /// <summary>The guest's physical memory as the source sees it.</summary>
    internal byte[] SaveMemory(long length) => SaveMemory(0, length);

    internal byte[] SaveMemory(long from, long length)
    {
        Monitor.Execute("pmemsave", $"{{\"val\": {from}, \"size\": {length}, \"filename\": \"{Inside}/memory\"}}");
        string path = Path.Combine(Directory, "memory");
        byte[] memory = File.ReadAllBytes(path);
        File.Delete(path);
        return memory;
    }

    public void Dispose()
    {
        Monitor.Dispose();
        End();
    }

    private void End()
    {
        _process.Dispose();
        System.IO.Directory.Delete(Directory, recursive: true);
    }
}
