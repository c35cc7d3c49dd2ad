namespace Postcopy.Uffd;

/// <summary>One thing that was checked on this host.</summary>
/// <param name="Name">What was checked, as a stable lower-case name.</param>
/// <param name="Status">How it came out.</param>
/// <param name="Detail">What was found, with values and limits.</param>
/// <param name="Remedy">What to do about it; empty when nothing is to be done.</param>
public sealed record HostCheck(string Name, HostCheckStatus Status, string Detail, string Remedy = "")
{
    /// <summary>The check in one line: mark, name, detail and remedy.</summary>
    public override string ToString()
    {
        string mark = Status switch
        {
            HostCheckStatus.Ok => "ok     ",
            HostCheckStatus.Warning => "warning",
            _ => "FAILED ",
        };
        return Remedy.Length == 0 ? $"{mark}  {Name}: {Detail}" : $"{mark}  {Name}: {Detail} -> {Remedy}";
    }

    internal static HostCheck Ok(string name, string detail) => new(name, HostCheckStatus.Ok, detail);

    internal static HostCheck Warn(string name, string detail, string remedy) => new(name, HostCheckStatus.Warning, detail, remedy);

    internal static HostCheck Fail(string name, string detail, string remedy) => new(name, HostCheckStatus.Failed, detail, remedy);

    internal static string Lines(string head, IEnumerable<HostCheck> checks) =>
        head + string.Concat(checks.Select(c => $"{Environment.NewLine}  {c}"));
}
