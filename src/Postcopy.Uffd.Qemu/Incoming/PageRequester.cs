namespace Postcopy.Uffd.Qemu;

/// <summary>From the fault thread to the return path. Allocates nothing.</summary>
internal sealed class PageRequester : IPageRequester
{
    private readonly ReturnPathWriter _writer;
    private readonly Dictionary<RamBlock, StreamRamBlock> _blocks;

    internal PageRequester(ReturnPathWriter writer, Dictionary<RamBlock, StreamRamBlock> blocks)
    {
        _writer = writer;
        _blocks = blocks;
    }

    public RequestOutcome TryRequest(in PageRequest request) =>
        _writer.TryRequestPages(_blocks[request.Block], request.Offset, request.Length) switch
        {
            ReturnPathOutcome.Sent => RequestOutcome.Sent,
            ReturnPathOutcome.Busy => RequestOutcome.Busy,
            _ => RequestOutcome.Disconnected,
        };
}
