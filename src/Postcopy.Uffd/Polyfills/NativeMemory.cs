using Postcopy.Uffd.Interop;

namespace System.Runtime.InteropServices;

/// <summary>The part of <c>NativeMemory</c> that this library uses, on the same functions of libc.</summary>
[Microsoft.CodeAnalysis.Embedded]
internal static unsafe class NativeMemory
{
    internal static void* AllocZeroed(nuint elementCount, nuint elementSize)
    {
        nint block = Libc.calloc(elementCount, elementSize);
        return block != 0 ? (void*)block : throw new OutOfMemoryException();
    }

    internal static void* AllocZeroed(nuint byteCount) => AllocZeroed(byteCount, 1);

    internal static void* AlignedAlloc(nuint byteCount, nuint alignment)
    {
        // aligned_alloc(3) wants a multiple of the alignment.
        nint block = Libc.aligned_alloc(alignment, (byteCount + alignment - 1) & ~(alignment - 1));
        return block != 0 ? (void*)block : throw new OutOfMemoryException();
    }

    internal static void Clear(void* pointer, nuint byteCount) => _ = Libc.memset((nuint)pointer, 0, byteCount);

    internal static void Free(void* pointer) => Libc.free((nint)pointer);

    internal static void AlignedFree(void* pointer) => Libc.free((nint)pointer);
}
