using System.CommandLine;
using System.CommandLine.Parsing;

namespace Postcopy.Handler;

/// <summary>The command line: serve and firecracker.</summary>
internal static class CommandLine
{
    internal static RootCommand Build() => new("Serves the page faults of virtual machine monitors from memory images, in a process of its own.")
    {
        Serve("serve", "Takes memory over by Postcopy.Uffd's hand-over (HandoffOwner); may be killed and replaced at any time", firecracker: false),
        Serve("firecracker", "Takes memory over by Firecracker's handshake, as the snapshot's page fault handler", firecracker: true),
    };

    private static Command Serve(string name, string description, bool firecracker)
    {
        Option<string> socket = new("--socket") { HelpName = "PATH", Required = true, Description = "Unix socket to listen at; made with mode 0600, a left-over one is replaced" };
        Option<string> image = new("--image") { HelpName = "FILE", Required = true, Description = "The memory image" };
        Option<int> workers = new("--workers") { HelpName = "N", DefaultValueFactory = _ => 1, Description = "Threads that read the image and place pages" };
        workers.Validators.Add(result => RequireRange(result, 1, 64));
        Option<bool> fill = new("--fill") { Description = "Also place what nobody touches, until nothing is missing" };
        Option<bool> keep = new("--keep") { Description = "Serve one owner after the other until interrupted; else end with the first" };
        Option<bool> noCollections = new("--fail-on-gc") { Description = "End with code 3 when the garbage collector ran while pages were served" };
        Command command = new(name, description) { socket, image, workers, fill, keep, noCollections };
        command.SetAction(parsed => HandlerMain.Run(new HandlerOptions
        {
            Socket = parsed.GetValue(socket)!,
            Image = parsed.GetValue(image)!,
            Workers = parsed.GetValue(workers),
            Fill = parsed.GetValue(fill),
            Keep = parsed.GetValue(keep),
            FailOnCollection = parsed.GetValue(noCollections),
            Firecracker = firecracker,
        }));
        return command;
    }

    private static void RequireRange(OptionResult result, int least, int most)
    {
        if (!result.Tokens.All(t => int.TryParse(t.Value, out int n) && n >= least && n <= most))
        {
            result.AddError($"{result.Option.Name}: '{string.Join(' ', result.Tokens.Select(t => t.Value))}' is not a number from {least} to {most}.");
        }
    }
}
