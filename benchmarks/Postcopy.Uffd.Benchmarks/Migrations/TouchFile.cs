using System.Runtime.InteropServices;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>A seeded random order of pages in a file, so that every destination touches the same ones.</summary>
internal sealed class TouchFile : IDisposable
{
    // A PC's physical addresses have holes below 1 MiB, and its firmware writes there and at the end.
    private const long Left = 16 << 20;

    internal TouchFile(long guestBytes, int count, int seed = 1)
    {
        long left = Math.Min(Left, guestBytes / 8);
        int pages = (int)((guestBytes - (2 * left)) >> 12);
        Order = TouchOrder.Shuffled((int)(left >> 12), pages, seed)[..Math.Min(count, pages)];
        Path = System.IO.Path.GetTempFileName();
        File.WriteAllBytes(Path, MemoryMarshal.AsBytes(Order.AsSpan()));
    }

    internal string Path { get; }

    internal uint[] Order { get; }

    internal int Count => Order.Length;

    /// <summary>Reads one back.</summary>
    internal static uint[] Read(string path, int count) => MemoryMarshal.Cast<byte, uint>(File.ReadAllBytes(path))[..count].ToArray();

    public void Dispose() => File.Delete(Path);
}
