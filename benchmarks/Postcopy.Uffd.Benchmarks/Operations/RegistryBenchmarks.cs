using BenchmarkDotNet.Attributes;

namespace Postcopy.Uffd.Benchmarks;

/// <summary>From a fault's address to its block: done once per message.</summary>
[MemoryDiagnoser]
public class RegistryBenchmarks : IDisposable
{
    private const int PagesPerBlock = 4;

    private readonly RamBlockRegistry _registry = new();
    private GuestMemory? _memory;
    private nuint[] _addresses = [];
    private int _next;

    /// <summary>RAM blocks in the registry.</summary>
    [Params(1, 64, 1024)]
    public int Blocks { get; set; }

    /// <summary>Fills the registry and draws the addresses.</summary>
    [GlobalSetup]
    public void Setup()
    {
        long length = PagesPerBlock * PageSize.Host.Bytes;
        _memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = Blocks * length });
        for (int i = 0; i < Blocks; i++)
        {
            _ = _registry.Add(new RamBlockSpec { Name = $"block {i}", Memory = _memory, MemoryOffset = i * length, UsedLength = length });
        }

        Random random = new(1);
        _addresses = [.. Enumerable.Range(0, 4096).Select(_ => _memory.Address + (nuint)random.NextInt64(_memory.Length))];
    }

    /// <summary>One lookup by address.</summary>
    [Benchmark]
    public long FindByAddress()
    {
        _ = _registry.TryFind(_addresses[_next++ & 4095], out _, out long offset);
        return offset;
    }

    /// <summary>Frees what the setup made.</summary>
    [GlobalCleanup]
    public void Dispose()
    {
        _registry.Dispose();
        _memory?.Dispose();
        GC.SuppressFinalize(this);
    }
}
