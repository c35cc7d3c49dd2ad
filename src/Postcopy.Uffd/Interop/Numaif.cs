using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Interop;

/// <summary>get_mempolicy(2) and mbind(2) of <c>numaif.h</c>, by number: libnuma is not needed for two system calls.</summary>
internal static unsafe class Numaif
{
    internal const int MPOL_DEFAULT = 0;
    internal const int MPOL_BIND = 2;
    internal const int MPOL_F_ADDR = 2;

    /// <summary>Words of a node mask: the most nodes that a kernel is built for are 1024.</summary>
    internal const int MaskWords = 16;

    /// <summary>Its bits, and one more: the kernel takes the number less one.</summary>
    internal const int MaxNode = (MaskWords * 64) + 1;

    internal static int get_mempolicy(int* mode, ulong* nodes, nuint address) =>
        (int)Libc.syscall_get_mempolicy(Number(239, 236), mode, nodes, MaxNode, address, MPOL_F_ADDR);

    internal static int mbind(nuint address, nuint length, int mode, ulong* nodes) =>
        (int)Libc.syscall_mbind(Number(237, 235), address, length, mode, nodes, nodes is null ? 0u : MaxNode, 0);

    private static nint Number(nint x64, nint arm64) => RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? arm64 : x64;
}
