using System.Runtime.InteropServices;
using Postcopy.Uffd.Benchmarks.Interop;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>
/// Lets the host back memory before anything is measured: in a virtual machine the first touch of a page that the host
/// has not given yet, or has taken back, costs several times what placing it does.
/// </summary>
/// <remarks>
/// Touched as huge pages: small ones come from where memory is in pieces, which the host never takes back, so that
/// touching those leaves the whole 2 MiB cold that huge pages are made of.
/// </remarks>
internal static unsafe class WarmMemory
{
    private const nuint HugePage = 2 << 20;
    private const nint PageBytes = 4096;

    internal static void Touch(long bytes)
    {
        byte* memory = (byte*)NativeMemory.AlignedAlloc((nuint)bytes, HugePage);
        _ = Libc.madvise(memory, (nuint)bytes, Libc.MADV_HUGEPAGE);
        for (nint at = 0; at < bytes; at += PageBytes)
        {
            memory[at] = 1;
        }

        NativeMemory.AlignedFree(memory);
    }
}
