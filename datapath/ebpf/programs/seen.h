/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which matches decide, and which names connections have. Counted once for each connection, when it is decided; packets
 * of decided connections do not come here. User space reads it now and then (datapath/ebpf/decided_names.py), and counts
 * by itself what it decides.
 */
#ifndef PODLANE_SEEN_H
#define PODLANE_SEEN_H

#include "policy.h"

/* Numbers: of matches, and the last one for no match, and for those behind that have no number of their own. */
#define HITS 512

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* so that hundreds of them are looked at without a call */
	__uint(max_entries, HITS);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

/* A connection is decided; found is as first_match() says it. */
static __always_inline void hit(__u32 found)
{
	__u32 number = found >> MATCH_SHIFT;
	__u64 *counter;

	if (number > HITS - 1)
		number = HITS - 1;
	counter = bpf_map_lookup_elem(&hits, &number);
	if (counter)
		__sync_fetch_and_add(counter, 1);
}

struct kept_name {
	__u64 words[KEPT_NAME / 8];
};

struct seen_name {
	struct kept_name name; /* as it was sent; zeros behind it */
	__u16 port; /* big endian */
	__u8 was, inbound;
	__u32 match;
};

/* User space takes out what it reads. A name that finds no room is not counted: whoever invents names without end takes
 * room of its own interface alone, and memory is taken only by names that there are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 128);
	__type(key, struct seen_name);
	__type(value, __u64);
} seen_names SEC(".maps");

/* What of a word belongs to a name that ends so many bytes behind its beginning. (Little endian, as all that is built.) */
static __always_inline __u64 cut(__u64 word, __u32 length)
{
	return length >= 8 ? word : word & ((1ULL << length * 8) - 1);
}

__noinline int see(struct packet *packet, struct kept_name *name, __u32 length, __u32 found, __u32 was)
{
	struct seen_name seen = {};
	__u64 first = 1, *count;

	if (!packet || !name)
		return 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < KEPT_NAME / 8; i++)
		if (i * 8 < length)
			seen.name.words[i] = cut(name->words[i], length - i * 8);
	seen.port = packet->destination_port;
	seen.was = was;
	seen.inbound = packet->kind == KIND_INBOUND;
	seen.match = found >> MATCH_SHIFT;
	count = bpf_map_lookup_elem(&seen_names, &seen);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&seen_names, &seen, &first, BPF_NOEXIST);
	return 0;
}

#endif
