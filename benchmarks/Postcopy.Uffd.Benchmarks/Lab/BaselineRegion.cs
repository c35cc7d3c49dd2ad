using Postcopy.Uffd.Benchmarks.Interop;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>A region registered and served by the C baseline.</summary>
internal sealed class BaselineRegion : IDisposable
{
    private readonly nint _region;
    private nint _handler;

    internal BaselineRegion(long bytes)
    {
        Bytes = bytes;
        Check(NativeLab.lab_region_open((ulong)bytes, out _region), "open a region");
    }

    internal long Bytes { get; }

    internal nuint Address => NativeLab.lab_region_address(_region);

    internal int HandlerThread => NativeLab.lab_handler_thread(_handler);

    internal void Serve(nuint page, bool spin, bool pinned = true)
    {
        Check(NativeLab.lab_handler_start(_region, page, spin ? NativeLab.LAB_SPIN : NativeLab.LAB_SLEEP, out _handler), "start a handler");
        if (pinned)
        {
            Affinity.Pin(HandlerThread, Affinity.Handler);
        }
    }

    internal unsafe void RequestThrough(int socket, NativeBuffer<ulong> samples) =>
        NativeLab.lab_handler_request_through(_handler, socket, samples.Pointer, samples.Count);

    internal long TakeSamples() => NativeLab.lab_handler_samples(_handler);

    internal void Discard() => Check(NativeLab.lab_region_discard(_region), "discard");

    internal void CopyAll(nuint source, long sourceBytes) => Check(NativeLab.lab_copy_loop(_region, source, (ulong)sourceBytes - 1, Bytes >> 12), "copy");

    internal void ZeroAll() => Check(NativeLab.lab_zero_loop(_region, Bytes >> 12), "zero");

    public void Dispose()
    {
        int error = _handler == 0 ? 0 : NativeLab.lab_handler_stop(_handler);
        NativeLab.lab_region_close(_region);
        Check(error, "serve faults");
    }

    private static void Check(int result, string what)
    {
        if (result != 0)
        {
            throw new LabException($"The C baseline could not {what}: errno {-result}.");
        }
    }
}
