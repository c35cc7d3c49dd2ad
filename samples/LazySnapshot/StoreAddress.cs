namespace LazySnapshot;

/// <summary>A store as it stands on the command line: <c>file:PATH</c> or <c>redis:HOST:PORT[,HOST:PORT...]</c>.</summary>
internal sealed record StoreAddress(bool IsRedis, string Target)
{
    internal const string Allowed = "file:PATH or redis:HOST:PORT[,HOST:PORT...]";

    internal static StoreAddress? TryParse(string text)
    {
        const string file = "file:", redis = "redis:";
        if (text.StartsWith(file, StringComparison.Ordinal) && text.Length > file.Length)
        {
            return new StoreAddress(false, text[file.Length..]);
        }

        return text.StartsWith(redis, StringComparison.Ordinal) && text[redis.Length..].Split(',').All(IsEndpoint)
            ? new StoreAddress(true, text[redis.Length..])
            : null;
    }

    /// <summary>Opens it.</summary>
    /// <param name="snapshot">Name of the snapshot in a Redis store; a file has none.</param>
    /// <exception cref="PageStoreException">It cannot be reached, or has no such snapshot.</exception>
    internal async Task<IPageStore> OpenAsync(string snapshot) =>
        IsRedis ? await RedisPageStore.OpenAsync(Target, snapshot) : FilePageStore.Open(Target);

    private static bool IsEndpoint(string text)
    {
        int colon = text.LastIndexOf(':');
        return colon > 0 && ushort.TryParse(text.AsSpan(colon + 1), out ushort port) && port != 0;
    }
}
