using System.Diagnostics;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>
/// The product's fault thread with the product's return path, with two clock reads around: one when the message was
/// read, one when the request is in the socket. The page is placed after the second.
/// </summary>
/// <remarks>The first stamp is taken below the fault reader, at its seam to the kernel, which the destination does not show.</remarks>
internal sealed unsafe class RequestingReader : IPageRequester, IFaultObserver, IDisposable
{
    private readonly GuestMemory _memory;
    private readonly RamBlockRegistry _registry = new();
    private readonly UffdHandle _uffd;
    private readonly BlocktimeTracker _blocktime = new(new BlocktimeOptions());
    private readonly PostcopyPlacer _placer;
    private readonly FaultReader _reader;
    private readonly RamBlock _block;
    private readonly MigrationChannel _channel;
    private readonly ReturnPathWriter _writer;
    private readonly StreamRamBlock _streamBlock;
    private readonly NativeBuffer<ulong> _samples;
    private readonly StampedKernel _kernel;
    private readonly nuint _page;
    private long _count;
    private Exception? _failure;

    internal RequestingReader(long bytes, nuint page, Socket socket, NativeBuffer<ulong> samples)
    {
        _page = page;
        _samples = samples;
        _memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = bytes });
        _block = _registry.Add(new RamBlockSpec { Name = "pc.ram", Memory = _memory });
        _streamBlock = new StreamRamBlock(0, "pc.ram", bytes, PageSize.Host.Bytes);
        _channel = MigrationChannel.FromSocket(socket);
        _writer = new ReturnPathWriter(_channel);
        _placer = new PostcopyPlacer(null, _blocktime);
        _uffd = UffdHandle.Open(new UffdOpenOptions());
        _ = _uffd.Negotiate(UffdFeatures.None, UffdFeatures.ThreadId);
        _block.Attach(_uffd, _uffd.Register(_memory.Range, UffdModes.Missing));
        _ = _blocktime.AddVcpu(HostThread.CurrentId);
        _kernel = new StampedKernel(_uffd);
        _reader = new FaultReader(new FaultReaderOptions(), _placer, _blocktime, _registry, null, this);
        _reader.AddSource(new FaultSource(_kernel, _uffd.Descriptor, _registry, isPrimary: true));
        _reader.SetRequester(this);
        _reader.Start();
        Affinity.Pin(ThreadTime.Find("postcopy-fault"), Affinity.Handler);
    }

    internal nuint Address => _memory.Address;

    public RequestOutcome TryRequest(in PageRequest request)
    {
        ReturnPathOutcome outcome = _writer.TryRequestPages(_streamBlock, request.Offset, request.Length);
        long now = Stopwatch.GetTimestamp();
        if (outcome != ReturnPathOutcome.Sent)
        {
            return RequestOutcome.Busy;
        }

        if (_count < _samples.Count)
        {
            _samples.Pointer[_count++] = (ulong)(now - _kernel.ReadAt);
        }

        _ = _placer.Place(request.Block, request.Offset, _page, request.Length);
        return RequestOutcome.Sent;
    }

    /// <summary>How many samples there are; the next ones begin anew. No fault may be on its way.</summary>
    internal long TakeSamples()
    {
        if (_failure is not null)
        {
            throw new LabException($"The fault thread ended: {_failure.Message}");
        }

        return Interlocked.Exchange(ref _count, 0);
    }

    internal void Discard() => _block.Discard(new PageRange(0, _block.UsedLength));

    public void OnReaderFailed(Exception e) => _failure = e;

    public void OnUnservable(RamBlock? block, long offset, PlaceOutcome outcome) => _failure = new LabException($"A page could not be placed: {outcome}.");

    public void OnPriorityRefused(string what, int value, int errno)
    {
    }

    public void Dispose()
    {
        _ = _placer.PlaceZero(_block, 0, _block.UsedLength);
        _reader.Stop();
        _reader.Dispose();
        _uffd.Dispose();
        _writer.Dispose();
        _channel.Dispose();
        _placer.Dispose();
        _registry.Dispose();
        _memory.Dispose();
    }

    /// <summary>The real kernel, and when a read of it came back with messages.</summary>
    private sealed class StampedKernel(UffdHandle kernel) : IUffdKernel
    {
        private readonly IUffdKernel _kernel = kernel;

        internal long ReadAt { get; private set; }

        public int Read(Span<UffdMessage> into, out UffdOutcome outcome)
        {
            int got = _kernel.Read(into, out outcome);
            if (got > 0)
            {
                ReadAt = Stopwatch.GetTimestamp();
            }

            return got;
        }

        public UffdResult Wake(nuint start, nuint length) => _kernel.Wake(start, length);

        public UffdResult Copy(nuint destination, nuint source, nuint length, UffdPlaceFlags flags) => _kernel.Copy(destination, source, length, flags);

        public UffdResult Zeropage(nuint start, nuint length, UffdPlaceFlags flags) => _kernel.Zeropage(start, length, flags);

        public UffdResult Move(nuint destination, nuint source, nuint length, UffdMoveFlags flags) => _kernel.Move(destination, source, length, flags);

        public UffdResult Continue(nuint start, nuint length, UffdPlaceFlags flags) => _kernel.Continue(start, length, flags);

        public UffdResult Poison(nuint start, nuint length, UffdPlaceFlags flags) => _kernel.Poison(start, length, flags);

        public bool IsPresent(nuint address) => _kernel.IsPresent(address);
    }
}
