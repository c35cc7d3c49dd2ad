using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Interop;

/// <summary>
/// Constants and structs of <c>include/uapi/linux/userfaultfd.h</c>, kept under their C names. They are our own
/// because installed headers lag behind the running kernel by years; the ABI tests prove those that a header has.
/// </summary>
internal static class Userfaultfd
{
    internal const ulong UFFD_API = 0xAA;
    internal const int UFFD_USER_MODE_ONLY = 1;

    internal const uint USERFAULTFD_IOC_NEW = 0xAA00;
    internal const uint UFFDIO_API = 0xC018AA3F;
    internal const uint UFFDIO_REGISTER = 0xC020AA00;
    // UNREGISTER and WAKE carry the "read" direction by historical accident; the kernel expects exactly that.
    internal const uint UFFDIO_UNREGISTER = 0x8010AA01;
    internal const uint UFFDIO_WAKE = 0x8010AA02;
    internal const uint UFFDIO_COPY = 0xC028AA03;
    internal const uint UFFDIO_ZEROPAGE = 0xC020AA04;
    internal const uint UFFDIO_MOVE = 0xC028AA05;
    internal const uint UFFDIO_WRITEPROTECT = 0xC018AA06;
    internal const uint UFFDIO_CONTINUE = 0xC020AA07;
    internal const uint UFFDIO_POISON = 0xC020AA08;

    internal const byte UFFD_EVENT_PAGEFAULT = 0x12;
    internal const byte UFFD_EVENT_FORK = 0x13;
    internal const byte UFFD_EVENT_REMAP = 0x14;
    internal const byte UFFD_EVENT_REMOVE = 0x15;
    internal const byte UFFD_EVENT_UNMAP = 0x16;

    [StructLayout(LayoutKind.Sequential)]
    internal struct uffdio_api
    {
        internal ulong api;
        internal ulong features;
        internal ulong ioctls;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct uffdio_range
    {
        internal ulong start;
        internal ulong len;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct uffdio_register
    {
        internal uffdio_range range;
        internal ulong mode;
        internal ulong ioctls;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct uffdio_copy
    {
        internal ulong dst;
        internal ulong src;
        internal ulong len;
        internal ulong mode;
        internal long copy;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct uffdio_zeropage
    {
        internal uffdio_range range;
        internal ulong mode;
        internal long zeropage;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct uffdio_move
    {
        internal ulong dst;
        internal ulong src;
        internal ulong len;
        internal ulong mode;
        internal long move;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct uffdio_writeprotect
    {
        internal uffdio_range range;
        internal ulong mode;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct uffdio_continue
    {
        internal uffdio_range range;
        internal ulong mode;
        internal long mapped;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct uffdio_poison
    {
        internal uffdio_range range;
        internal ulong mode;
        internal long updated;
    }
}
