/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What cannot be read here is shown to user space, which answers into a map (datapath/ebpf/beginnings.py). Nothing waits
 * for it: until there is an answer, and if there never is one, the packet decides.
 *
 * The ring, the answers, and who has how much in the ring, are shared by the programs of all interfaces that one process
 * looks after (datapath/ebpf/shared_maps.py); a record says of which interface, a lane, it is. So that one that floods the
 * ring loses its own, no more than MOST_OF_LANE of it waits to be read, and of one of its sources half of that. A source
 * is a cgroup, in Kubernetes a container; of clients, one of 64 groups of addresses. (Up to twice as much waits while what
 * came before is being read.)
 */
#ifndef PODLANE_BEGINNINGS_H
#define PODLANE_BEGINNINGS_H

#include "policy.h"

#define RING_BYTES (512 << 10)
#define MOST_OF_LANE (256 << 10)
#define MOST_OF_SOURCE (MOST_OF_LANE / 2)
/* As Detector.MAX_BYTES: bytes from a connection's start that may decide. */
#define MOST_SHOWN ((64 << 10) + 1024)
#define MOST_PARTS (MOST_SHOWN / MOST_BYTES + 1)

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} beginnings SEC(".maps");

struct verdict {
	__u32 first_byte; /* a socket may be connected again */
	__u32 class_id; /* 0: the packet decides */
};

/* By cookie of the flow. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct verdict);
} verdicts SEC(".maps");

struct source {
	__u64 origin;
	__u64 lane;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct source);
	__type(value, struct waiting);
} sources_shown SEC(".maps");

/* Whether so many bytes more may wait, of at most so many. */
static __always_inline int has_room(struct waiting *waiting, __u64 size, __u64 most)
{
	if (bpf_ringbuf_query(&beginnings, BPF_RB_CONS_POS) > waiting->since) {
		waiting->since = bpf_ringbuf_query(&beginnings, BPF_RB_PROD_POS);
		waiting->bytes = 0;
	}
	if (waiting->bytes + size > most)
		return 0;
	waiting->bytes += size;
	return 1;
}

/* Whether this source may have so many bytes more in the ring. Sources may be forgotten for others; lanes never are. */
static __always_inline int may_wait(struct settings *settings, const struct beginning *beginning, __u64 size)
{
	struct source source = { beginning->origin, settings->lane };
	struct waiting *waiting = bpf_map_lookup_elem(&sources_shown, &source);
	struct waiting first = { bpf_ringbuf_query(&beginnings, BPF_RB_PROD_POS), size };

	if (waiting ? !has_room(waiting, size, MOST_OF_SOURCE)
		    : bpf_map_update_elem(&sources_shown, &source, &first, BPF_ANY))
		return 0;
	return has_room(&settings->shown, size, MOST_OF_LANE);
}

#define CLIENTS (1ULL << 63)

struct showing {
	struct __sk_buff *skb;
	struct scratch *scratch;
	struct settings *settings;
	__u32 start, length;
};

/* One part of the data. Returns 1 at the end. */
static long show_part(__u32 i, struct showing *showing)
{
	struct scratch *scratch = showing->scratch;
	__u32 at = i * MOST_BYTES;
	__u64 size;

	if (at >= showing->length)
		return 1;
	size = showing->length - at;
	if (size > MOST_BYTES)
		size = MOST_BYTES;
	size--;
	asm volatile("%0 &= 4095" : "+r"(size));
	size++;
	scratch->beginning.lost = 1;
	if (bpf_skb_load_bytes(showing->skb, showing->start + at, scratch->data, size))
		return 1;
	scratch->beginning.length = size;
	if (!may_wait(showing->settings, &scratch->beginning, sizeof(scratch->beginning) + size) ||
	    bpf_ringbuf_output(&beginnings, &scratch->beginning, sizeof(scratch->beginning) + size, 0))
		return 1;
	scratch->beginning.sequence += size;
	scratch->beginning.lost = 0;
	return 0;
}

/* Show the data of a packet, of a datagram no more than its beginning. Of a datagram ``first_byte`` is the class that its
 * flow has. Returns 0 if some was lost. */
__noinline int show(struct __sk_buff *skb, struct packet *packet, __u64 cookie, __u32 first_byte)
{
	struct settings *settings = settings_in_force();
	struct showing showing = { skb, scratch_memory(), settings };
	struct beginning *beginning;

	if (!packet || !settings || !showing.scratch)
		return 0;
	beginning = &showing.scratch->beginning;
	beginning->cookie = cookie;
	beginning->lane = settings->lane;
	beginning->inbound = packet->kind == KIND_INBOUND || packet->kind == KIND_INBOUND_UDP;
	/* Of IPv6 the network of the client counts. */
	if (beginning->inbound)
		beginning->origin = CLIENTS | ((packet->source[0] ^ packet->source[1] ^
						(packet->version == 4 ? packet->source[3] : 0)) *
					       0x9e3779b1U) >> 26;
	else
		beginning->origin = bpf_skb_cgroup_id(skb);
	beginning->udp = packet->kind == KIND_UDP || packet->kind == KIND_INBOUND_UDP;
	beginning->class_id = beginning->udp ? first_byte : 0;
	beginning->first_byte = first_byte;
	beginning->sequence = packet->sequence;
	__builtin_memcpy(beginning->source, packet->source, 16);
	__builtin_memcpy(beginning->destination, packet->destination, 16);
	beginning->source_port = packet->source_port;
	beginning->destination_port = packet->destination_port;
	beginning->lost = 0;
	showing.start = settings->link_header + packet->data;
	showing.length = packet->data_length;
	bpf_loop(beginning->udp ? 1 : MOST_PARTS, show_part, &showing, 0);
	return !beginning->lost;
}

#endif
