/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What cannot be read here is shown to user space, which answers into a map (datapath/ebpf/beginnings.py). Nothing waits
 * for it: until there is an answer, and if there never is one, the packet decides.
 *
 * Of one source no more than a quarter of the ring waits to be read, so that one that floods it loses its own. A source is
 * a cgroup, in Kubernetes a container; of clients, one of 64 groups of addresses.
 */
#ifndef PODLANE_BEGINNINGS_H
#define PODLANE_BEGINNINGS_H

#include "scratch.h"

#define RING_BYTES (512 << 10)
#define MOST_WAITING (RING_BYTES / 4)
/* As Detector.MAX_BYTES: bytes from a connection's start that may decide. */
#define MOST_SHOWN ((64 << 10) + 1024)
#define MOST_PARTS (MOST_SHOWN / MOST_BYTES + 1)

struct waiting {
	__u64 since; /* where in the ring its first record is of those that may wait */
	__u64 bytes;
};

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

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct waiting);
} sources_shown SEC(".maps");

/* Whether this source may have so many bytes more in the ring. */
static __always_inline int may_wait(__u64 source, __u64 size)
{
	struct waiting *waiting = bpf_map_lookup_elem(&sources_shown, &source);
	struct waiting first = { bpf_ringbuf_query(&beginnings, BPF_RB_PROD_POS), size };

	if (!waiting)
		return !bpf_map_update_elem(&sources_shown, &source, &first, BPF_ANY);
	if (bpf_ringbuf_query(&beginnings, BPF_RB_CONS_POS) > waiting->since) {
		*waiting = first;
		return 1;
	}
	if (waiting->bytes + size > MOST_WAITING)
		return 0;
	waiting->bytes += size;
	return 1;
}

#define CLIENTS (1ULL << 63)

struct showing {
	struct __sk_buff *skb;
	struct scratch *scratch;
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
	if (!may_wait(scratch->beginning.origin, sizeof(scratch->beginning) + size) ||
	    bpf_ringbuf_output(&beginnings, &scratch->beginning, sizeof(scratch->beginning) + size, 0))
		return 1;
	scratch->beginning.sequence += size;
	scratch->beginning.lost = 0;
	return 0;
}

/* Show the data of a packet. Returns 0 if some was lost. */
__noinline int show(struct __sk_buff *skb, struct packet *packet, __u64 cookie, __u32 first_byte)
{
	struct settings *settings = settings_in_force();
	struct showing showing = { skb, scratch_memory() };
	struct beginning *beginning;

	if (!packet || !settings || !showing.scratch)
		return 0;
	beginning = &showing.scratch->beginning;
	beginning->cookie = cookie;
	beginning->inbound = packet->kind == KIND_INBOUND;
	/* Of IPv6 the network of the client counts. */
	if (beginning->inbound)
		beginning->origin = CLIENTS | ((packet->source[0] ^ packet->source[1] ^
						(packet->version == 4 ? packet->source[3] : 0)) *
					       0x9e3779b1U) >> 26;
	else
		beginning->origin = bpf_skb_cgroup_id(skb);
	beginning->first_byte = first_byte;
	beginning->sequence = packet->sequence;
	__builtin_memcpy(beginning->source, packet->source, 16);
	__builtin_memcpy(beginning->destination, packet->destination, 16);
	beginning->source_port = packet->source_port;
	beginning->destination_port = packet->destination_port;
	beginning->lost = 0;
	showing.start = settings->link_header + packet->data;
	showing.length = packet->data_length;
	bpf_loop(MOST_PARTS, show_part, &showing, 0);
	return !beginning->lost;
}

#endif
