using System.Globalization;

namespace Postcopy.Uffd;

/// <summary>The kernel's pool of reserved huge pages of one size, as sysfs tells.</summary>
internal readonly record struct HugePagePool(string Path, bool Exists, long Total, long Free, long Reserved, long Overcommit, long Surplus)
{
    /// <summary>Pages that a new mapping can still reserve, those above the pool that the kernel may add included.</summary>
    internal long Available => Math.Max(0, Free - Reserved + Math.Max(0, Overcommit - Surplus));

    internal static HugePagePool Read(PageSize pageSize, string root = "/sys/kernel/mm/hugepages")
    {
        string path = $"{root}/hugepages-{pageSize.Bytes >> 10}kB";
        return Directory.Exists(path)
            ? new HugePagePool(path, true, Number(path, "nr_hugepages"), Number(path, "free_hugepages"), Number(path, "resv_hugepages"),
                Number(path, "nr_overcommit_hugepages"), Number(path, "surplus_hugepages"))
            : new HugePagePool(path, false, 0, 0, 0, 0, 0);
    }

    private static long Number(string path, string file) =>
        long.Parse(File.ReadAllText($"{path}/{file}").AsSpan().Trim(), CultureInfo.InvariantCulture);
}
