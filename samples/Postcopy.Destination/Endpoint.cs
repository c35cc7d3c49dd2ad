using System.Net;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Destination;

/// <summary>Where to listen or connect, as QEMU writes it: <c>tcp:HOST:PORT</c> or <c>unix:PATH</c>.</summary>
internal sealed record Endpoint(EndPoint Address)
{
    internal static bool TryParse(string text, out Endpoint? endpoint, out string allowed)
    {
        endpoint = MigrationAddress.TryParse(text, out EndPoint? address, out allowed) ? new Endpoint(address) : null;
        return endpoint is not null;
    }

    internal Socket CreateSocket() => new(Address.AddressFamily, SocketType.Stream, Address.AddressFamily == AddressFamily.Unix ? ProtocolType.Unspecified : ProtocolType.Tcp);

    public override string ToString() => MigrationAddress.Format(Address);
}
