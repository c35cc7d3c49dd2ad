namespace Postcopy.Vmm.Machine;

/// <summary>The port devices of this machine: a serial port, the A20 gate, and nothing else.</summary>
internal sealed class PortBus(SerialPort serial)
{
    private const ushort Com1 = 0x3f8;
    private const ushort Com1LineControl = Com1 + 3;
    private const ushort Com1LineStatus = Com1 + 5;
    private const ushort Port92 = 0x92;
    private const byte DivisorLatch = 0x80;
    private const byte TransmitterEmpty = 0x60;
    private const byte FastReset = 1;
    private const byte NothingThere = 0xff;

    private long _unknown;

    /// <summary>The A20 latch; memory is not wrapped when it is off, as on every machine of this century.</summary>
    internal byte A20 { get; set; }

    /// <summary>The serial port's line control register: while its top bit is set, what is written is a speed and no character.</summary>
    internal byte LineControl { get; set; }

    /// <summary>Accesses to ports that nothing listens to.</summary>
    internal long Unknown => Volatile.Read(ref _unknown);

    internal byte Read(ushort port)
    {
        switch (port)
        {
            case Com1LineStatus:
                return TransmitterEmpty;
            case Com1LineControl:
                return LineControl;
            case Port92:
                return A20;
            default:
                Interlocked.Increment(ref _unknown);
                return NothingThere;
        }
    }

    /// <summary>False when that resets the machine.</summary>
    internal bool Write(ushort port, byte value)
    {
        switch (port)
        {
            case Com1 when (LineControl & DivisorLatch) == 0:
                serial.Transmit(value);
                return true;
            case Com1:
                return true;
            case Com1LineControl:
                LineControl = value;
                return true;
            case Port92:
                bool reset = (value & ~A20 & FastReset) != 0;
                A20 = value;
                return !reset;
            default:
                Interlocked.Increment(ref _unknown);
                return true;
        }
    }
}
