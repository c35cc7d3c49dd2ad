using System.Net.Sockets;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>A destination in a child process that does what its parent says, and what limits allow; the source is the parent's.</summary>
internal static class ReceivingChild
{
    internal const long Ram = 96 << 20;

    internal static MigrationChannel Connect(string path)
    {
        Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Connect(new UnixDomainSocketEndPoint(path));
        return MigrationChannel.FromSocket(socket);
    }

    /// <summary>Says "ready", hears a line, says what the plan says, receives, says "whole".</summary>
    internal static void Receive(ChildScenario child)
    {
        child.Say("ready");
        _ = child.Hear();
        using MigrationListener listener = MigrationListener.Bind(new UnixDomainSocketEndPoint(child.Arguments[0]));
        child.Say($"plan: {MemoryPlan.Check([new MemoryPlanBlock(GuestMemoryKind.Anonymous, Ram)]).IsSufficient}");
        Receiver receiver = new(listener.AcceptAsync, new QemuIncomingOptions(), new PostcopyOptions { Placer = new PlacerOptions { Deadline = Receiver.Budget } }, vcpus: 2);
        receiver.FinishAsync().GetAwaiter().GetResult();
        child.Say("whole");
    }
}
