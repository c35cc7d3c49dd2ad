using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;
using Postcopy.Destination;
using StackExchange.Redis;

namespace LazySnapshot;

/// <summary>A snapshot in Redis or Valkey, alone or as a cluster; see <see cref="RedisSnapshot"/> for how it lies there.</summary>
internal sealed class RedisPageStore : IPageStore
{
    private readonly ConnectionMultiplexer _redis;
    private readonly IDatabase _database;
    private readonly byte[][] _index;

    private RedisPageStore(ConnectionMultiplexer redis, IDatabase database, long length, byte[][] index)
    {
        _redis = redis;
        _database = database;
        _index = index;
        Length = length;
    }

    public long Length { get; }

    internal static async Task<RedisPageStore> OpenAsync(string endpoints, string snapshot)
    {
        ConnectionMultiplexer redis = await RedisSnapshot.ConnectAsync(endpoints);
        try
        {
            IDatabase database = redis.GetDatabase();
            byte[]? description = await database.StringGetAsync(RedisSnapshot.Description(snapshot));
            if (description is not { Length: sizeof(long) })
            {
                throw new PageStoreException($"The Redis at {endpoints} has no snapshot '{snapshot}'; write one with 'lazy-snapshot push'.");
            }

            long length = BinaryPrimitives.ReadInt64LittleEndian(description);
            if (length <= 0 || length % SeededContent.PageBytes != 0)
            {
                throw new PageStoreException($"The snapshot '{snapshot}' says {length} bytes, which are not whole pages of 4096.");
            }

            return new RedisPageStore(redis, database, length, await ReadIndexAsync(database, snapshot, length / SeededContent.PageBytes));
        }
        catch (Exception e) when (e is RedisException or TimeoutException)
        {
            await redis.DisposeAsync();
            throw new PageStoreException($"The snapshot '{snapshot}' cannot be opened at {endpoints}: {e.Message}", e);
        }
        catch
        {
            await redis.DisposeAsync();
            throw;
        }
    }

    public async ValueTask ReadAsync(long offset, Memory<byte> into)
    {
        int count = into.Length / SeededContent.PageBytes;
        long first = offset / SeededContent.PageBytes;
        Task<Lease<byte>?>?[] reads = new Task<Lease<byte>?>?[count];
        try
        {
            // All are on their way before the first is waited for; a page that occurs twice is asked for once.
            Dictionary<RedisKey, Task<Lease<byte>?>> asked = [];
            for (int i = 0; i < count; i++)
            {
                ReadOnlyMemory<byte> hash = Hash(first + i);
                if (hash.Span.ContainsAnyExcept((byte)0))
                {
                    RedisKey key = RedisSnapshot.Page(hash.Span);
                    ref Task<Lease<byte>?>? read = ref System.Runtime.InteropServices.CollectionsMarshal.GetValueRefOrAddDefault(asked, key, out _);
                    reads[i] = read ??= _database.StringGetLeaseAsync(key);
                }
            }

            for (int i = 0; i < count; i++)
            {
                Memory<byte> page = into.Slice(i * SeededContent.PageBytes, SeededContent.PageBytes);
                if (reads[i] is { } read)
                {
                    Check(await read, first + i).CopyTo(page.Span);
                }
                else
                {
                    page.Span.Clear();
                }
            }
        }
        catch (Exception e) when (e is RedisException or TimeoutException or OperationCanceledException)
        {
            // Nobody else cancels here: the client does, what it had queued for a connection that is gone.
            throw new PageStoreException(e.Message, e);
        }
        finally
        {
            foreach (Task<Lease<byte>?> read in reads.OfType<Task<Lease<byte>?>>().Distinct())
            {
                _ = read.ContinueWith(static done => _ = done.IsCompletedSuccessfully ? Free(done.Result) : done.Exception is null, TaskScheduler.Default);
            }
        }
    }

    public ValueTask DisposeAsync() => _redis.DisposeAsync();

    private static async Task<byte[][]> ReadIndexAsync(IDatabase database, string snapshot, long pages)
    {
        byte[][] index = new byte[(pages + RedisSnapshot.IndexPages - 1) / RedisSnapshot.IndexPages][];
        for (int i = 0; i < index.Length; i++)
        {
            long expected = Math.Min(RedisSnapshot.IndexPages, pages - ((long)i * RedisSnapshot.IndexPages)) * RedisSnapshot.HashBytes;
            byte[]? part = await database.StringGetAsync(RedisSnapshot.Index(snapshot, i));
            if (part is null || part.Length != expected)
            {
                throw new PageStoreException(string.Create(CultureInfo.InvariantCulture,
                    $"Part {i} of the index of snapshot '{snapshot}' has {part?.Length ?? 0} bytes instead of {expected}; write the snapshot again."));
            }

            index[i] = part;
        }

        return index;
    }

    /// <summary>The content, if it is the page that the index names.</summary>
    private ReadOnlySpan<byte> Check(Lease<byte>? content, long page)
    {
        if (content is null)
        {
            throw new PageStoreException($"page {page} is not in the store (evicted, or lost in a restart)");
        }

        Span<byte> hash = stackalloc byte[RedisSnapshot.HashBytes];
        return content.Length == SeededContent.PageBytes && SHA256.HashData(content.Span, hash) == hash.Length && hash.SequenceEqual(Hash(page).Span)
            ? content.Span
            : throw new PageStoreException($"page {page} is damaged in the store: its SHA-256 is not the one in the index");
    }

    private static bool Free(Lease<byte>? lease)
    {
        lease?.Dispose();
        return true;
    }

    private ReadOnlyMemory<byte> Hash(long page) =>
        _index[page / RedisSnapshot.IndexPages].AsMemory((int)(page % RedisSnapshot.IndexPages) * RedisSnapshot.HashBytes, RedisSnapshot.HashBytes);
}
