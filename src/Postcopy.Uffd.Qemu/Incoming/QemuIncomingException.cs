namespace Postcopy.Uffd.Qemu;

/// <summary>
/// The migration failed here. Placed pages are right and stay; the message says in which phase, and whether the source
/// can go on with its guest.
/// </summary>
public sealed class QemuIncomingException : Exception
{
    internal QemuIncomingException(string message, bool sourceMayResume, Exception? inner = null)
        : base(message, inner)
    {
        SourceMayResume = sourceMayResume;
    }

    /// <summary>What the source sent that it must not, and where; null when something else was the reason.</summary>
    public MigrationStreamException? StreamError => InnerException as MigrationStreamException;

    /// <summary>True when the guest never ran here, so that the source may let it go on there.</summary>
    public bool SourceMayResume { get; }
}
