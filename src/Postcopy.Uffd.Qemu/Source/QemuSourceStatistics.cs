namespace Postcopy.Uffd.Qemu;

/// <summary>What a source has sent so far.</summary>
/// <param name="Pages">Target pages with content.</param>
/// <param name="ZeroPages">Target pages of zeros.</param>
/// <param name="PrecopyPages">Target pages, of both sorts, before the switch.</param>
/// <param name="Requests">Page requests received ("postcopy-requests").</param>
/// <param name="UrgentPages">Target pages sent because they were asked for.</param>
/// <param name="BytesSent">Bytes on all connections.</param>
/// <param name="RemainingBytes">Bytes of memory that still have to be sent.</param>
/// <param name="ResentPages">Host pages that arrived damaged and were asked for again (<see cref="QemuSourceOptions.PageChecksums"/>).</param>
public readonly record struct QemuSourceStatistics(
    long Pages, long ZeroPages, long PrecopyPages, long Requests, long UrgentPages, long BytesSent, long RemainingBytes, long ResentPages);
