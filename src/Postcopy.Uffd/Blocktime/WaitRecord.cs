using System.Runtime.InteropServices;

namespace Postcopy.Uffd;

/// <summary>How an episode ended.</summary>
internal enum WaitEnd : byte
{
    /// <summary>The page was placed and the waiter woken.</summary>
    Placed,

    /// <summary>The vCPU went on to another fault with this one unresolved (case 6).</summary>
    MovedOn,

    /// <summary>The thread returned from KVM_RUN, was re-bound or removed.</summary>
    LeftGuest,

    /// <summary>The migration was abandoned.</summary>
    Unresolved,
}

/// <summary>
/// One fault episode: from the fault reader's Begin to the fold. The state word carries the episode's sequence number,
/// so that a compare-and-swap can only ever close the episode it was meant for (case 13).
/// </summary>
/// <remarks>
/// Page, Start, ReadDelay, FilterEntry, ThreadId, Live and OlderLive are written by the reader before it publishes the state, and never
/// change for that sequence number. End, StampDelay and Cause are written by the one party whose compare-and-swap
/// moved the state to Closing or Cancelling, before it stores Closed or Cancelled with release order.
/// 64 bytes: neighbouring episodes do not share a cache line for longer than an array's base misaligns it.
/// </remarks>
[StructLayout(LayoutKind.Sequential)]
internal struct WaitRecord
{
    internal const int PhaseBits = 3;
    internal const long PhaseMask = (1 << PhaseBits) - 1;

    internal const long Free = 0;
    internal const long Open = 1;
    internal const long Confirmed = 2;
    internal const long Closing = 3;
    internal const long Cancelling = 4;
    internal const long Closed = 5;
    internal const long Cancelled = 6;

    internal long State;
    internal nuint Page;
    internal long Start;
    internal long End;
    internal long ReadDelay;
    internal long StampDelay;
    internal int FilterEntry;
    internal uint ThreadId;
    internal ushort Live;
    internal short OlderLive;
    internal WaitEnd Cause;

    internal static long Word(long sequence, long phase) => (sequence << PhaseBits) | phase;

    internal static bool IsOpen(long word, long sequence) =>
        word >> PhaseBits == sequence && (word & PhaseMask) is Open or Confirmed;
}
