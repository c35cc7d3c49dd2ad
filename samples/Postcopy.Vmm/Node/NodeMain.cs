using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Node;

/// <summary>The commands run and receive: a node, its result file and its exit code.</summary>
internal static class NodeMain
{
    internal const int Failed = 1;

    internal static async Task<int> RunAsync(NodeOptions options, CancellationToken cancellationToken)
    {
        string? error = null;
        NodeResult? result = null;
        try
        {
            using VmmNode node = new(options, Console.Out);
            result = node.Result;
            await node.RunAsync(cancellationToken);
        }
        catch (OperationCanceledException)
        {
            error = "Stopped, as asked; the guest that was here is gone.";
            await Console.Error.WriteLineAsync(error);
        }
        catch (Exception e) when (e is VmmException or QemuIncomingException or MigrationStreamException or MigrationConnectionException
            or UffdException or GuestMemoryException or IOException or System.Net.Sockets.SocketException)
        {
            error = e.Message;
            await Console.Error.WriteLineAsync(error);
        }

        if (options.ResultFile is { } file)
        {
            result ??= new NodeResult();
            result.Error = error;
            result.Write(file);
        }

        return error is null && result?.Guest is null or { WrongPages: 0 } ? 0 : Failed;
    }
}
