using System.CommandLine;
using System.Globalization;
using System.Net;
using Postcopy.Vmm.Demo;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Node;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm;

/// <summary>The command line: what there is, what is allowed, and what it means.</summary>
internal sealed class CommandLine
{
    internal const int UsageError = 2;

    private readonly Option<int> _vcpus = Number("--vcpus", 1, 1, VirtualMachine.MostVcpus, "vCPUs of the guest");
    private readonly Option<int> _demoVcpus = Number("--vcpus", 2, 1, VirtualMachine.MostVcpus, "vCPUs of the guest");
    private readonly Option<bool> _noQemu = new("--no-qemu") { Description = "Leave QEMU out though it is installed" };
    private readonly Option<int> _memory = Number("--memory", 32, 4, (int)(VirtualMachine.MostMemory >> 20), "Memory of the guest in MiB");
    private readonly Option<string> _mode = new("--mode") { Description = "Mode of the guest: long or protected", DefaultValueFactory = _ => "long" };
    private readonly Option<IPEndPoint?> _listen = Endpoint("--listen", "Where guests come in; port 0 takes a free one and says which");
    private readonly Option<IPEndPoint?> _to = Endpoint("--to", "Where guests are sent on");
    private readonly Option<int?> _hops = new("--hops") { HelpName = "N", Description = "Migrations to take part in, in both directions [default: 1, or 2 for receive with --to]" };
    private readonly Option<int> _beats = Number("--beats", 4, 1, 1_000_000, "Heartbeats of each vCPU before the guest is sent on, or stopped and checked");
    private readonly Option<int> _bandwidth = Number("--bandwidth", 0, 0, 100_000, "Rate of pages that nobody asked for, in MiB a second; 0 is without limit");
    private readonly Option<int> _timeout = Number("--timeout", 120, 1, 86_400, "Give up that many seconds after the guest booted or came");
    private readonly Option<string?> _result = new("--result-file") { HelpName = "PATH", Description = "Write what happened there as JSON" };
    private readonly Option<string?> _timeline = new("--timeline") { HelpName = "PATH", Description = "Draw the stalls of the vCPUs of the last guest that came as an HTML page" };
    private readonly Option<string?> _demoTimeline = new("--timeline") { HelpName = "PATH", Description = "Draw the stalls of the vCPUs on VMM B as an HTML page" };
    private readonly Option<string?> _qmp = new("--qmp")
    {
        HelpName = "PATH",
        Description = "Monitor socket of a QEMU source: a guest that is refused here goes on there (needed before QEMU 10.2, which does so by itself)",
    };

    private readonly Option<string?> _description = new("--vm-description")
    {
        HelpName = "PATH",
        Description = "A stream that QEMU saved of the same machine ('migrate exec:cat>PATH'): its description tells the lengths of the device sections, which are guessed otherwise",
    };

    internal RootCommand Build()
    {
        _mode.AcceptOnlyFromAmong("long", "protected");
        Command run = new("run", "Boots a small guest of our own: it walks its memory and prints heartbeats. With --to it is migrated after some of them.")
        {
            _vcpus, _memory, _mode, _listen, _to, _hops, _beats, _bandwidth, _timeout, _result, _timeline,
        };
        run.SetAction((parsed, cancellation) => NodeMain.RunAsync(Options(parsed, boots: true), cancellation));

        Command receive = new("receive", "Takes a running guest in by postcopy, from run or from QEMU (-machine pc), and sends it on with --to.")
        {
            _listen, _to, _hops, _beats, _bandwidth, _timeout, _result, _timeline, _description, _qmp,
        };
        receive.Validators.Add(result =>
        {
            if (result.GetResult(_listen) is null)
            {
                result.AddError("receive: --listen is needed, such as --listen 127.0.0.1:4444.");
            }
        });
        receive.SetAction((parsed, cancellation) => NodeMain.RunAsync(Options(parsed, boots: false), cancellation));

        Command demo = new("demo", "Migrates a live guest QEMU -> VMM A -> VMM B, three processes, and says on one screen what happened. Without QEMU: VMM A -> VMM B.")
        {
            _demoVcpus, _mode, _noQemu, _demoTimeline,
        };
        demo.SetAction((parsed, cancellation) => DemoMain.RunAsync(new DemoOptions(
            parsed.GetValue(_demoVcpus), parsed.GetValue(_mode) == "long", QemuProcess.IsInstalled && !parsed.GetValue(_noQemu), parsed.GetValue(_demoTimeline)), cancellation));
        return new RootCommand("A small virtual machine monitor on KVM whose guests move by postcopy: what Postcopy.Uffd is for.") { run, receive, demo };
    }

    private NodeOptions Options(ParseResult parsed, bool boots)
    {
        IPEndPoint? to = parsed.GetValue(_to);
        return new NodeOptions
        {
            Boots = boots,
            Vcpus = boots ? parsed.GetValue(_vcpus) : 1,
            MemoryBytes = boots ? (long)parsed.GetValue(_memory) << 20 : 0,
            LongMode = !boots || parsed.GetValue(_mode) == "long",
            Listen = parsed.GetValue(_listen),
            To = to,
            Hops = parsed.GetValue(_hops) ?? ((boots ? 0 : 1) + (to is null ? 0 : 1)),
            Beats = parsed.GetValue(_beats),
            Bandwidth = (long)parsed.GetValue(_bandwidth) << 20,
            Timeout = TimeSpan.FromSeconds(parsed.GetValue(_timeout)),
            ResultFile = parsed.GetValue(_result),
            TimelineFile = parsed.GetValue(_timeline),
            QmpSocket = boots ? null : parsed.GetValue(_qmp),
            VmDescriptionFile = boots ? null : parsed.GetValue(_description),
        };
    }

    private static Option<int> Number(string name, int standard, int least, int most, string description) => new(name)
    {
        HelpName = "N",
        Description = $"{description} ({least} to {most})",
        DefaultValueFactory = _ => standard,
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int value) && value >= least && value <= most)
            {
                return value;
            }

            result.AddError($"{name}: '{text}' is not allowed; give a whole number from {least} to {most}.");
            return standard;
        },
    };

    private static Option<IPEndPoint?> Endpoint(string name, string description) => new(name)
    {
        HelpName = "ADDRESS:PORT",
        Description = description,
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (text.Contains(':', StringComparison.Ordinal) && IPEndPoint.TryParse(text, out IPEndPoint? endpoint))
            {
                return endpoint;
            }

            result.AddError($"{name}: '{text}' is not allowed; give a numeric address and a port, such as 127.0.0.1:4444.");
            return null;
        },
    };
}
