using System.Globalization;

namespace Postcopy.Uffd;

/// <summary>A thread that waits for a page at the moment of the reading.</summary>
/// <param name="Slot">The vCPU slot's index, or -1 for a thread that is no vCPU.</param>
/// <param name="ThreadId">The thread of the fault message.</param>
/// <param name="Page">The address of the page it waits for.</param>
/// <param name="Since">When its fault was read, on the tracker's clock.</param>
public readonly record struct OpenStall(int Slot, uint ThreadId, nuint Page, long Since)
{
    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{(Slot < 0 ? "thread" : "vCPU " + Slot + ", thread")} {ThreadId} waits for 0x{(ulong)Page:x}");
}
