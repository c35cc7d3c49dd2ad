using System.Globalization;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>Reserves huge pages beyond those that are there, and gives them back.</summary>
internal sealed class HugePages : IDisposable
{
    private const string Path = "/proc/sys/vm/nr_hugepages";
    private const string LockPath = "/tmp/postcopy-uffd-hugepages.lock";
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);

    private readonly int _before;

    // The pool is the machine's: the core's tests, in another process, resize it too and take the same lock.
    private readonly FileStream _lock;

    internal HugePages(int count)
    {
        _lock = AcquireLock();
        _before = int.Parse(File.ReadAllText(Path), CultureInfo.InvariantCulture);
        try
        {
            Add(count);
            if (Free() < count)
            {
                // Fragmented: let the kernel move things together, and ask again.
                File.WriteAllText("/proc/sys/vm/compact_memory", "1");
                Add(count - Free());
            }
        }
        catch (UnauthorizedAccessException)
        {
            _lock.Dispose();
            Assert.Skip($"{Path} cannot be written: run as root, or reserve {count} huge pages: sysctl vm.nr_hugepages={count}");
        }
    }

    public void Dispose()
    {
        File.WriteAllText(Path, _before.ToString(CultureInfo.InvariantCulture));
        _lock.Dispose();
    }

    private static FileStream AcquireLock()
    {
        long start = System.Diagnostics.Stopwatch.GetTimestamp();
        while (true)
        {
            try
            {
                return new FileStream(LockPath, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (System.Diagnostics.Stopwatch.GetElapsedTime(start) < s_patience)
            {
                Thread.Sleep(50);
            }
        }
    }

    /// <summary>What is free and promised to nobody: others may map some without the lock.</summary>
    private static int Free() => Read("free_hugepages") - Read("resv_hugepages");

    private static int Read(string name) =>
        int.Parse(File.ReadAllText($"/sys/kernel/mm/hugepages/hugepages-2048kB/{name}"), CultureInfo.InvariantCulture);

    private static void Add(int count) =>
        File.WriteAllText(Path, (int.Parse(File.ReadAllText(Path), CultureInfo.InvariantCulture) + count).ToString(CultureInfo.InvariantCulture));
}
