namespace Postcopy.Vmm.Machine;

/// <summary>The port devices of this machine: a serial port, the A20 gate, and nothing else.</summary>
internal sealed class PortBus(SerialPort serial)
{
    private const ushort Com1 = 0x3f8;
    private const ushort Com1LineStatus = Com1 + 5;
    private const ushort Port92 = 0x92;
    private const byte TransmitterEmpty = 0x60;
    private const byte NothingThere = 0xff;

    private long _unknown;

    /// <summary>The A20 latch; memory is not wrapped when it is off, as on every machine of this century.</summary>
    internal byte A20 { get; set; }

    /// <summary>Accesses to ports that nothing listens to.</summary>
    internal long Unknown => Volatile.Read(ref _unknown);

    internal byte Read(ushort port)
    {
        switch (port)
        {
            case Com1LineStatus:
                return TransmitterEmpty;
            case Port92:
                return A20;
            default:
                Interlocked.Increment(ref _unknown);
                return NothingThere;
        }
    }

    internal void Write(ushort port, byte value)
    {
        switch (port)
        {
            case Com1:
                serial.Transmit(value);
                break;
            case Port92:
                A20 = value;
                break;
            default:
                Interlocked.Increment(ref _unknown);
                break;
        }
    }
}
