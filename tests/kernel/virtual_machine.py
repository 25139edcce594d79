"""A Pod of a VM runtime, as Kata Containers makes it: a tap in the Pod's network namespace, tied to eth0 by `tc mirred`
in both directions (its model "tcfilter"). The guest is a namespace whose frames this program copies to and from the tap.

    virtual_machine.py TAP INTERFACE NAMESPACE    runs in the Pod's network namespace; INTERFACE is in that of the guest

Through the copy no socket of the guest survives, as with a hypervisor. Offloaded checksums and large packets pass with
their headers (virtio_net_hdr).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys

SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/if_packet.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x1, 0x2
CLONE_NEWNET = 0x40000000
MOST = 70_000


def main() -> None:
    name, interface, namespace = sys.argv[1:]
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    with open(namespace) as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    guest = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    guest.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    guest.bind((interface, 3))  # ETH_P_ALL
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([tap, guest], [], [])
        if guest in readable:
            data, sender = guest.recvfrom(MOST)
            if sender[2] != socket.PACKET_OUTGOING:
                os.write(tap, data)
        if tap in readable:
            guest.send(os.read(tap, MOST))


if __name__ == "__main__":
    main()
