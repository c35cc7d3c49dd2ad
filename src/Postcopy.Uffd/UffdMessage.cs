using System.Runtime.InteropServices;

namespace Postcopy.Uffd;

/// <summary>
/// One message as the kernel writes it: the 32 bytes of <c>struct uffd_msg</c>. The members beside
/// <see cref="Event"/> overlap; which of them means something follows from it.
/// </summary>
[StructLayout(LayoutKind.Explicit, Size = 32)]
public readonly struct UffdMessage
{
    [FieldOffset(0)] private readonly byte _event;
    [FieldOffset(8)] private readonly ulong _word0;
    [FieldOffset(16)] private readonly ulong _word1;
    [FieldOffset(24)] private readonly ulong _word2;

    internal UffdMessage(UffdEvent kind, ulong word0, ulong word1, ulong word2)
    {
        _event = (byte)kind;
        _word0 = word0;
        _word1 = word1;
        _word2 = word2;
    }

    /// <summary>Bytes of one message.</summary>
    public const int Size = 32;

    /// <summary>What happened.</summary>
    public UffdEvent Event => (UffdEvent)_event;

    /// <summary>Pagefault: how the page was touched.</summary>
    public UffdPagefaultFlags Flags => (UffdPagefaultFlags)_word0;

    /// <summary>
    /// Pagefault: the address. Mask it to the page: some kernels give the exact address unasked, and hugetlb faults
    /// are masked to the huge page.
    /// </summary>
    public nuint Address => (nuint)_word1;

    /// <summary>
    /// Pagefault: the faulting thread, as numbered in <em>its own</em> pid namespace; 0 unless
    /// <see cref="UffdFeatures.ThreadId"/> was granted.
    /// </summary>
    public uint ThreadId => (uint)_word2;

    /// <summary>Remove and Unmap: the range that went away.</summary>
    public AddressRange Range => new((nuint)_word0, (nuint)(_word1 - _word0));

    /// <summary>Remap: where the range was.</summary>
    public nuint RemapFrom => (nuint)_word0;

    /// <summary>Remap: where the range is now.</summary>
    public nuint RemapTo => (nuint)_word1;

    /// <summary>Remap: bytes moved.</summary>
    public nuint RemapLength => (nuint)_word2;

    /// <summary>Fork: the child's descriptor, which the reader now owns and must close.</summary>
    public int ForkDescriptor => (int)(uint)_word0;

    /// <summary>The message in one line, for diagnostics.</summary>
    public override string ToString() => Event switch
    {
        UffdEvent.Pagefault => $"pagefault at 0x{(ulong)Address:x} by thread {ThreadId} ({Flags})",
        UffdEvent.Remap => $"remap 0x{(ulong)RemapFrom:x} to 0x{(ulong)RemapTo:x}, {(ulong)RemapLength} bytes",
        UffdEvent.Remove or UffdEvent.Unmap => $"{Event} {Range}",
        UffdEvent.Fork => $"fork, descriptor {ForkDescriptor}",
        _ => $"event 0x{_event:x2}",
    };
}
