using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>Native memory that is written before it is measured with: a first touch is slow, above all in a virtual machine.</summary>
internal sealed unsafe class NativeBuffer<T> : IDisposable
    where T : unmanaged
{
    private const nuint Alignment = 2 << 20;

    internal NativeBuffer(long count)
    {
        Count = count;
        Pointer = (T*)NativeMemory.AlignedAlloc((nuint)(count * sizeof(T)), Alignment);
        NativeMemory.Fill(Pointer, (nuint)(count * sizeof(T)), 0x5a);
    }

    internal long Count { get; }

    internal T* Pointer { get; }

    internal nuint Address => (nuint)Pointer;

    internal Span<T> Span => new(Pointer, checked((int)Count));

    public void Dispose() => NativeMemory.AlignedFree(Pointer);
}
