/* SPDX-License-Identifier: Apache-2.0 */
/* What all parts of the programs use. The kernel's own BTF is not needed: only its stable headers are. */
#ifndef PODLANE_TYPES_H
#define PODLANE_TYPES_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* traffic_policy/marks.py and tc_core/compile/mark_tree.py: the default class, our bits of a mark, and the HTB class of
 * an id, 1:100 | id. */
#define DEFAULT_CLASS 255
#define MARK_BITS 0xff003000
#define CLASS_SHIFT 24
#define LEAF 0x00010100

/* Transport protocols that a policy tells apart, TCP and UDP of connections that clients open, and what is no packet's: the
 * port in a name of a service (services.h). */
enum { KIND_TCP, KIND_UDP, KIND_ICMP, KIND_OTHER, KIND_INBOUND, KIND_INBOUND_UDP, KIND_SERVICE };

#define FLAG_SYN 0x02
#define FLAG_ACK 0x10

/* What a packet satisfies by what is in its headers, by number of the vector (policy.h). */
struct criteria {
	__u32 port, destination, source;
};

struct packet {
	__u32 source[4], destination[4]; /* IPv4 as ::ffff:a.b.c.d; big endian */
	__u16 source_port, destination_port; /* big endian; 0 without ports */
	__u32 sequence; /* of the first byte of data */
	__u32 data, data_length; /* where the data begins, from the network header, and its bytes */
	__u8 kind, flags, version, zero;
	__u16 name, name_length, offers, offers_length; /* where class_of_data() has found them in the data */
	__u16 service_port, zeros; /* the name is the host of one of Istio's services; 0: it is not */
	struct criteria found; /* by class_of_packet() */
};

#endif
