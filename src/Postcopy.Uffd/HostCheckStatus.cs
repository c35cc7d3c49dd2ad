namespace Postcopy.Uffd;

/// <summary>How one check of the host came out.</summary>
public enum HostCheckStatus
{
    /// <summary>As it should be.</summary>
    Ok = 0,

    /// <summary>Postcopy works, with less than it could have; the detail says what is lost.</summary>
    Warning,

    /// <summary>Postcopy must not be started; the remedy says what to change.</summary>
    Failed,
}
