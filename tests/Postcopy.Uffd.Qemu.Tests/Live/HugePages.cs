using System.Globalization;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>Reserves huge pages beyond those that are there, and gives them back.</summary>
internal sealed class HugePages : IDisposable
{
    private const string Path = "/proc/sys/vm/nr_hugepages";
    private readonly int _count;

    internal HugePages(int count)
    {
        _count = count;
        try
        {
            Add(count);
        }
        catch (UnauthorizedAccessException)
        {
            Assert.Skip($"{Path} cannot be written: run as root, or reserve {count} huge pages: sysctl vm.nr_hugepages={count}");
        }
    }

    public void Dispose() => Add(-_count);

    private static void Add(int count) =>
        File.WriteAllText(Path, (int.Parse(File.ReadAllText(Path), CultureInfo.InvariantCulture) + count).ToString(CultureInfo.InvariantCulture));
}
