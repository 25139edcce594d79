/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QUIC. Its first packets are encrypted, with keys that everybody can derive; that is done in user space
 * (datapath/ebpf/datagrams.py). Datagrams that may begin a connection are shown there, and it writes the class of their
 * flow into a map. They go on meanwhile, in the class of their port, or in that which the flow has already: a connection
 * that begins on a flow that is known can only make its class stricter.
 */
#ifndef PODLANE_QUIC_H
#define PODLANE_QUIC_H

#include "beginnings.h"

#define LONG_HEADER 0x80
#define SMALLEST_INITIAL 1200 /* bytes of a datagram, RFC 9000 14.1 */

struct udp_flow {
	__u32 source[4], destination[4];
	__u16 source_port, destination_port;
};

/* The class id of each flow whose hello was read, from who opened it to who answers. UDP has no end: those that were
 * needed longest ago are forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, struct udp_flow);
	__type(value, __u32);
} udp_flows SEC(".maps");

static __always_inline int may_begin_quic(struct __sk_buff *skb, const struct packet *packet, const struct settings *settings)
{
	__u8 first;

	return packet->data_length >= SMALLEST_INITIAL &&
	       !bpf_skb_load_bytes(skb, settings->link_header + packet->data, &first, 1) && first & LONG_HEADER;
}

static __always_inline __u32 class_of(const struct udp_flow *flow)
{
	__u32 *class_id = bpf_map_lookup_elem(&udp_flows, flow);

	return class_id ? *class_id & 0xff : 0;
}

/* The class that user space has found for the flow of a packet from who opened it; 0: none. */
static __always_inline __u32 class_of_flow(const struct packet *packet)
{
	struct udp_flow flow;

	__builtin_memcpy(flow.source, packet->source, 16);
	__builtin_memcpy(flow.destination, packet->destination, 16);
	flow.source_port = packet->source_port;
	flow.destination_port = packet->destination_port;
	return class_of(&flow);
}

/* The same of a packet to who opened it. */
static __always_inline __u32 class_of_answer(const struct packet *packet)
{
	struct udp_flow flow;

	__builtin_memcpy(flow.source, packet->destination, 16);
	__builtin_memcpy(flow.destination, packet->source, 16);
	flow.source_port = packet->destination_port;
	flow.destination_port = packet->source_port;
	return class_of(&flow);
}

#endif
