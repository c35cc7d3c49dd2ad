using System.Net.Sockets;
using Postcopy.Uffd.Benchmarks.Compare;
using Postcopy.Uffd.Benchmarks.Interop;
using Postcopy.Uffd.Benchmarks.Lab;

namespace Postcopy.Uffd.Benchmarks.Rows;

/// <summary>
/// From the read of a fault message to the request's bytes in the socket. Both sides send QEMU's REQ_PAGES_ID; ours by
/// the return path that QemuIncoming uses.
/// </summary>
internal static class RequestPathRow
{
    internal static IEnumerable<RowResult> Measure(ComparisonOptions options)
    {
        long bytes = options.Size(16 << 20, 512 << 10);
        using NativeBuffer<byte> page = new(PageSize.Host.Bytes);
        using TouchOrder order = new(bytes >> 12);
        using NativeBuffer<ulong> samples = new(order.Count);
        using DrainedSocket ourSocket = new();
        using DrainedSocket itsSocket = new();
        using RequestingReader ours = new(bytes, page.Address, ourSocket.Near, samples);
        using BaselineRegion baseline = new(bytes);
        baseline.Serve(page.Address, spin: false);
        baseline.RequestThrough((int)itsSocket.Near.Handle, samples);
        yield return Pairing.Run("request-path", "fault message read to request bytes in the socket, vs C", Goal.AtMost(1.2), options.Rounds,
            () =>
            {
                _ = order.Touch(ours.Address, order.Count);
                ours.Discard();
                return Sample.ByMedian(samples.Span[..(int)ours.TakeSamples()]);
            },
            () =>
            {
                _ = order.Touch(baseline.Address, order.Count);
                baseline.Discard();
                return Sample.ByMedian(samples.Span[..(int)baseline.TakeSamples()]);
            });
    }

    /// <summary>A connection over loopback whose far end is read by a native thread.</summary>
    private sealed class DrainedSocket : IDisposable
    {
        private readonly Socket _far;
        private readonly nint _drain;

        internal DrainedSocket()
        {
            using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            listener.Bind(new System.Net.IPEndPoint(System.Net.IPAddress.Loopback, 0));
            listener.Listen(1);
            Near = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            Near.Connect(listener.LocalEndPoint!);
            _far = listener.Accept();
            if (NativeLab.lab_drain_start((int)_far.Handle, out _drain) != 0)
            {
                throw new LabException("The reader of the requests could not be started.");
            }
        }

        internal Socket Near { get; }

        public void Dispose()
        {
            NativeLab.lab_drain_stop(_drain);
            _far.Dispose();
            Near.Dispose();
        }
    }
}
