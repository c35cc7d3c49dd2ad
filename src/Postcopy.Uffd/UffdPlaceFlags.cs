namespace Postcopy.Uffd;

/// <summary>Modes of COPY, ZEROPAGE, CONTINUE and POISON, with the kernel's values.</summary>
[Flags]
public enum UffdPlaceFlags : ulong
{
    /// <summary>Place, and wake the waiters of the range.</summary>
    None = 0,

    /// <summary>Do not wake; the caller owes a <see cref="UffdHandle.Wake"/>.</summary>
    DontWake = 1,

    /// <summary>COPY and CONTINUE: the page arrives write-protected.</summary>
    WriteProtected = 2,
}
