using BenchmarkDotNet.Attributes;
using Postcopy.Uffd.Benchmarks.Lab;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Benchmarks;

/// <summary>Reading QEMU's stream record by record, nothing placed; per page. What is allocated is a reader and its blocks, once a stream.</summary>
[MemoryDiagnoser]
public class WireBenchmarks : IDisposable
{
    private const int Pages = 16384;

    private RecordedStream? _stream;

    /// <summary>Zero pages, 9 bytes each, or pages with their content.</summary>
    [Params(false, true)]
    public bool Zero { get; set; }

    /// <summary>Records the stream.</summary>
    [GlobalSetup]
    public void Setup() => _stream = RecordedStream.Record(Pages * 4096L, Zero);

    /// <summary>One page record.</summary>
    [Benchmark(OperationsPerInvoke = Pages)]
    public long Parse()
    {
        using MigrationChannel channel = _stream!.Play();
        using QemuStreamReader reader = new(channel, new MigrationStreamState(), new QemuStreamOptions());
        long pages = 0;
        StreamRecordKind kind;
        while ((kind = reader.ReadNext()) != StreamRecordKind.EndOfStream)
        {
            pages += kind is StreamRecordKind.Page or StreamRecordKind.ZeroPage ? 1 : 0;
        }

        return pages == Pages ? pages : throw new InvalidOperationException($"{pages} pages were read, not {Pages}.");
    }

    /// <summary>Frees what the setup made.</summary>
    [GlobalCleanup]
    public void Dispose()
    {
        _stream?.Dispose();
        GC.SuppressFinalize(this);
    }
}
