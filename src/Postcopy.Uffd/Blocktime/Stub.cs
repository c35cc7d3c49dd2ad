#pragma warning disable CS1591
namespace Postcopy.Uffd;
public sealed record BlocktimeOptions;
public readonly record struct BlocktimeTicket(int X);
public sealed record BlocktimeReport { public string ToText()=>""; public string ToJson()=>""; }
public sealed class BlocktimeTracker { public BlocktimeTracker(BlocktimeOptions o){} public long Now()=>0; public int BlockedVcpus=>0; public object? AddVcpu(uint t)=>null; public bool TryBegin(uint t, nuint p, long at, out BlocktimeTicket k){k=default;return true;} public void Confirm(BlocktimeTicket t){} public void Cancel(BlocktimeTicket t){} public void End(nuint s, nuint l, long at){} public void SetLink(bool up,long at){} public void Abandon(long at){} public BlocktimeReport Snapshot()=>new(); }
