using System.Buffers.Binary;
using System.Net;
using System.Security.Cryptography;
using Postcopy.Destination;
using StackExchange.Redis;

namespace LazySnapshot;

/// <summary>
/// How a snapshot lies in Redis or Valkey. Pages are kept under their SHA-256, so equal pages, of any snapshot, are kept
/// once and a damaged one is noticed; an index names the page at each offset; a key for each page spreads them over a
/// cluster. What describes the snapshot is written last: a snapshot that can be opened is complete.
/// </summary>
internal static class RedisSnapshot
{
    internal const int HashBytes = SHA256.HashSizeInBytes;

    /// <summary>Pages per key of the index: 64 KiB of hashes.</summary>
    internal const int IndexPages = 2048;

    private const int Batch = 256;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(2);

    internal static RedisKey Page(ReadOnlySpan<byte> hash)
    {
        byte[] key = new byte[2 + HashBytes];
        key[0] = (byte)'p';
        key[1] = (byte)':';
        hash.CopyTo(key.AsSpan(2));
        return key;
    }

    internal static RedisKey Index(string snapshot, long number) => $"snapshot:{snapshot}:index:{number}";

    internal static RedisKey Description(string snapshot) => $"snapshot:{snapshot}";

    /// <summary>A connection that reports trouble at once, and mends itself.</summary>
    internal static async Task<ConnectionMultiplexer> ConnectAsync(string endpoints)
    {
        ConfigurationOptions options = new()
        {
            AbortOnConnectFail = false,
            ConnectTimeout = (int)s_patience.TotalMilliseconds,
            AsyncTimeout = (int)s_patience.TotalMilliseconds,
            SyncTimeout = (int)s_patience.TotalMilliseconds,
            ReconnectRetryPolicy = new LinearRetry(250),
            BacklogPolicy = BacklogPolicy.FailFast,
            KeepAlive = 5,
        };
        foreach (string endpoint in endpoints.Split(','))
        {
            int colon = endpoint.LastIndexOf(':');
            options.EndPoints.Add(new DnsEndPoint(endpoint[..colon], int.Parse(endpoint.AsSpan(colon + 1), System.Globalization.CultureInfo.InvariantCulture)));
        }

        ConnectionMultiplexer redis = await ConnectionMultiplexer.ConnectAsync(options);
        if (!redis.IsConnected)
        {
            await redis.DisposeAsync();
            throw new PageStoreException($"No Redis answers at {endpoints}; start one (apt-get install redis-server), or look at the address.");
        }

        return redis;
    }

    /// <summary>Writes an image into the store.</summary>
    /// <returns>Pages of the image that are not zero, and how many of them were new to the store.</returns>
    internal static async Task<(long Pages, long Kept)> PushAsync(IPageStore image, string endpoints, string snapshot)
    {
        await using ConnectionMultiplexer redis = await ConnectAsync(endpoints);
        IDatabase database = redis.GetDatabase();
        try
        {
            return await PushAsync(image, database, snapshot);
        }
        catch (Exception e) when (e is RedisException or TimeoutException)
        {
            throw new PageStoreException($"The snapshot '{snapshot}' could not be written to Redis: {e.Message}", e);
        }
    }

    private static async Task<(long Pages, long Kept)> PushAsync(IPageStore image, IDatabase database, string snapshot)
    {
        long total = image.Length / SeededContent.PageBytes;
        long pages = 0, kept = 0;
        List<Task<bool>> sending = [];
        for (long first = 0; first < total; first += IndexPages)
        {
            byte[] index = new byte[Math.Min(IndexPages, total - first) * HashBytes];
            for (int i = 0; i < index.Length / HashBytes; i++)
            {
                byte[] page = new byte[SeededContent.PageBytes];
                await image.ReadAsync((first + i) * SeededContent.PageBytes, page);
                if (page.AsSpan().ContainsAnyExcept((byte)0))
                {
                    // Pages of zeros have no entry: their hash in the index is zero.
                    Memory<byte> hash = index.AsMemory(i * HashBytes, HashBytes);
                    _ = SHA256.HashData(page, hash.Span);
                    sending.Add(database.StringSetAsync(Page(hash.Span), page, when: When.NotExists));
                    pages++;
                }

                if (sending.Count == Batch)
                {
                    kept += (await Task.WhenAll(sending)).Count(isNew => isNew);
                    sending.Clear();
                }
            }

            _ = await database.StringSetAsync(Index(snapshot, first / IndexPages), index);
        }

        kept += (await Task.WhenAll(sending)).Count(isNew => isNew);
        byte[] description = new byte[sizeof(long)];
        BinaryPrimitives.WriteInt64LittleEndian(description, image.Length);
        _ = await database.StringSetAsync(Description(snapshot), description);
        return (pages, kept);
    }
}
