using System.Globalization;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>
/// Sees to it that exactly <see cref="Pages"/> pages of 2 MiB are there for the tests of one collection, and puts the
/// pool back. The pool belongs to the machine: only one such fixture may live at a time, which the collection and a
/// lock file see to; the file remembers the pool's size for the next run when this one is killed.
/// </summary>
public sealed class HugePages : IDisposable
{
    private const string Pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    private readonly string _before = "0";
    private readonly FileStream? _lock;

    public HugePages()
    {
        if (Libc.geteuid() != 0 || !Directory.Exists(Pool))
        {
            return;
        }

        _lock = AcquireLock();
        using (StreamReader reader = new(_lock, leaveOpen: true))
        {
            string left = reader.ReadToEnd();
            _before = left.Length > 0 ? left : File.ReadAllText($"{Pool}/nr_hugepages").Trim();
        }

        Remember(_before);
        // What others use or reserved stays theirs.
        Resize((int)(Number("nr_hugepages") - Available) + Pages);
    }

    /// <summary>Pages in the pool while the fixture lives.</summary>
    public const int Pages = 8;

    /// <summary>Skips when the pool could not be had.</summary>
    internal static void Require()
    {
        Requires.Root("A huge-page pool for the test");
        Assert.SkipUnless(Directory.Exists(Pool), "Needs a kernel with CONFIG_HUGETLBFS and 2 MiB pages.");
        // The kernel gives the pages of an unmapped test back a little later.
        _ = Deadline.Reached(() => Available >= Pages, TimeSpan.FromSeconds(3));
        Assert.SkipUnless(Available >= Pages,
            $"Needs {Pages} huge pages and found {Available}: memory is fragmented, 'echo 1 > /proc/sys/vm/compact_memory' may help.");
    }

    /// <summary>Pages that nobody uses or reserved.</summary>
    internal static long Available => Number("free_hugepages") - Number("resv_hugepages");

    private static void Resize(int pages) => File.WriteAllText($"{Pool}/nr_hugepages", pages.ToString(CultureInfo.InvariantCulture));

    public void Dispose()
    {
        if (_lock is not null)
        {
            File.WriteAllText($"{Pool}/nr_hugepages", _before);
            Remember(string.Empty);
            _lock.Dispose();
        }
    }

    private static long Number(string file) => long.Parse(File.ReadAllText($"{Pool}/{file}").Trim(), CultureInfo.InvariantCulture);

    private void Remember(string size)
    {
        _lock!.SetLength(0);
        _lock.Write(System.Text.Encoding.ASCII.GetBytes(size));
        _lock.Flush(flushToDisk: false);
    }

    private static FileStream AcquireLock()
    {
        // Other test processes resize the same pool; FileShare.None is an flock that dies with its holder.
        FileStream? held = null;
        // Live migrations with huge pages hold it for a whole test.
        Assert.True(Deadline.Reached(() =>
        {
            try
            {
                held = new FileStream("/tmp/postcopy-uffd-hugepages.lock", FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
                return true;
            }
            catch (IOException)
            {
                return false;
            }
        }, TimeSpan.FromMinutes(2)), "The lock of the huge-page pool, /tmp/postcopy-uffd-hugepages.lock, is held by another test run.");
        return held!;
    }
}

/// <summary>The collection of all tests that use huge pages: one at a time.</summary>
[CollectionDefinition(Name)]
public sealed class HugePagesCollection : ICollectionFixture<HugePages>
{
    public const string Name = "huge pages";
}
