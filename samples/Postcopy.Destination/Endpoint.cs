using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Postcopy.Destination;

/// <summary>Where to listen or connect, as QEMU writes it: <c>tcp:HOST:PORT</c> or <c>unix:PATH</c>.</summary>
internal sealed record Endpoint(EndPoint Address, string? SocketFile)
{
    // sockaddr_un.sun_path has 108 bytes, the closing zero included (unix(7)).
    private const int LongestPath = 107;

    internal static bool TryParse(string text, out Endpoint? endpoint, out string allowed)
    {
        endpoint = null;
        allowed = "tcp:HOST:PORT (such as tcp:127.0.0.1:4444) or unix:PATH";
        if (text.StartsWith("unix:", StringComparison.Ordinal) && text.Length > 5)
        {
            string path = Path.GetFullPath(text[5..]);
            if (Encoding.UTF8.GetByteCount(path) > LongestPath)
            {
                allowed = $"unix:PATH with a path of at most {LongestPath} bytes";
                return false;
            }

            endpoint = new Endpoint(new UnixDomainSocketEndPoint(path), path);
            return true;
        }

        int colon = text.LastIndexOf(':');
        if (!text.StartsWith("tcp:", StringComparison.Ordinal) || colon <= 4 ||
            !ushort.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out ushort port))
        {
            return false;
        }

        string host = text[4..colon].Trim('[', ']');
        if (host is "localhost")
        {
            host = "127.0.0.1";
        }

        if (!IPAddress.TryParse(host, out IPAddress? address))
        {
            allowed = "tcp:HOST:PORT with a numeric address (such as tcp:127.0.0.1:4444)";
            return false;
        }

        endpoint = new Endpoint(new IPEndPoint(address, port), null);
        return true;
    }

    internal Socket CreateSocket() => new(Address.AddressFamily, SocketType.Stream, Address.AddressFamily == AddressFamily.Unix ? ProtocolType.Unspecified : ProtocolType.Tcp);

    public override string ToString() => SocketFile is null ? $"tcp:{Address}" : $"unix:{SocketFile}";
}
