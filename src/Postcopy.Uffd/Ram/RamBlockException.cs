namespace Postcopy.Uffd;

/// <summary>A RAM block or a range in one is not acceptable. Nothing was changed; the message says what is allowed.</summary>
public sealed class RamBlockException : Exception
{
    internal RamBlockException(string? blockName, string message)
        : base(message)
    {
        BlockName = blockName;
    }

    /// <summary>The block's name, if it has one.</summary>
    public string? BlockName { get; }
}
