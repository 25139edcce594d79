// SPDX-License-Identifier: Apache-2.0
/*
 * Podlane's third datapath: the class of a connection is decided here, by its first bytes, as they leave.
 *
 * The class is written into the packet's priority, which HTB obeys before it asks any filter, and into its mark. What
 * a program has put there (SO_PRIORITY, SO_MARK) is overwritten. The verdict is kept with the socket, so that nothing
 * has to be evicted and later packets cost one look-up.
 *
 * What cannot be read here is shown to user space (beginnings.h): a hello in several segments, HTTP/2, a name in unusual
 * form. Until user space answers, the port decides.
 */
#include "packet.h"
#include "names.h"
#include "tls.h"
#include "services.h"
#include "http1.h"
#include "beginnings.h"
#include "quic.h"
#include "seen.h"
#include "carried.h"

enum {
	OPEN, /* no data has been sent yet, and it may decide */
	DECIDED,
	ASKED, /* user space has been shown some */
};

enum {
	BY_PACKET,
	BY_CONTENT,
};

/* KEPT_NAME bytes of a name, and so many of a list of ALPN offers, are kept for when the policy changes. Longer ones are
 * not: such a connection keeps its class for as long as that exists. */
#define KEPT_OFFERS 32

struct flow {
	__u32 generation;
	__u32 first_byte; /* sequence number */
	__u8 state, by, class_id;
	__u8 shown; /* packets */
	__u8 inbound; /* opened by a client */
	__u8 kept; /* 1 + WAS_*; 0: nothing */
	__u8 name_length, offers_length;
	struct criteria found; /* of all its packets, in this generation */
	__u32 begun; /* see moment(); 0: that was not seen */
	__u64 cookie; /* drawn at random */
	__u8 name[KEPT_NAME], offers[KEPT_OFFERS];
	__u16 service_port; /* the name is the host of one of Istio's services; 0: it is not */
};

/* Now, for lists of connections: CLOCK_MONOTONIC in units of 2^24 ns, of which 32 bits last for two years. */
static __always_inline __u32 moment(void)
{
	__u32 now = bpf_ktime_get_coarse_ns() >> 24;

	return now ? now : 1;
}

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct flow);
} flows SEC(".maps");

#define MOST_PACKETS 255
/* Bytes behind which no answer is awaited, since until then each packet is looked at. */
#define PATIENCE (16 << 20)

/* Connections that content could decide, by class and by what their first bytes were; user space counts its own. */
enum { WAS_TLS, WAS_HTTP1, WAS_OPAQUE, WAS_MISSED, KINDS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* so that hundreds of them are looked at without a call */
	__uint(max_entries, 256 * KINDS);
	__type(key, __u32);
	__type(value, __u64);
} decisions SEC(".maps");

static __always_inline void count(__u32 class_id, __u32 kind)
{
	__u32 number = (class_id & 0xff) * KINDS + kind;
	__u64 *counter = bpf_map_lookup_elem(&decisions, &number);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

/* The class by the packet alone and the number of its match, and CONTENT_DECIDES if content could decide otherwise. */
__noinline __u32 class_of_packet(struct packet *packet)
{
	__u32 first;

	if (!packet)
		return BY_NO_MATCH;
	packet_criteria(packet, &packet->found);
	if (packet->kind != KIND_ICMP && packet->kind != KIND_OTHER) {
		first = first_match(&packet->found, ANY_CONTENT, 0);
		if (!(first & CONTENT_DECIDES))
			return first;
		return first_match(&packet->found, NO_CONTENT, 0) | CONTENT_DECIDES;
	}
	return first_match(&packet->found, NO_CONTENT, 0);
}

/* The class by the data of a connection's first packet with some, and by what class_of_packet() has found; the number of the
 * match, and WAS_* in the byte behind the class. Without a class the packet decides, since the data is of no protocol that
 * has names; UNREAD: that cannot be told here. */
#define UNREAD 0x10000
#define WAS_SHIFT 8
#define WAS(found) ((found) >> WAS_SHIFT & 0xff)

__noinline __u32 class_of_data(struct __sk_buff *skb, struct packet *packet)
{
	struct name_vectors vectors = { NO_NAME, NO_CONTENT, NO_NAME };
	struct settings *settings = settings_in_force();
	struct scratch *scratch = scratch_memory();
	struct found_names found_names = {};
	__u32 content, was, with_alpn = 0;
	__u64 size;

	if (!packet || !scratch || !settings || !packet->data_length)
		return UNREAD;
	size = packet->data_length > MOST_BYTES ? MOST_BYTES : packet->data_length;
	/* 1 to 4096, in a way that the verifier of 6.1 understands. */
	size--;
	asm volatile("%0 &= 4095" : "+r"(size));
	size++;
	if (bpf_skb_load_bytes(skb, settings->link_header + packet->data, scratch->data, size))
		return UNREAD;
	if (scratch->data[0] == 0x16) {
		if (!read_hello(size, &found_names))
			return UNREAD;
		if (found_names.name && !look_up_name(found_names.name, found_names.name_length, &vectors))
			return UNREAD;
		if (!unite_offers(found_names.offers, found_names.offers_end))
			return UNREAD;
		if (settings->flags & READS_SERVICES && found_names.name &&
		    !look_up_service(&found_names, &vectors))
			return UNREAD;
		content = vectors.sni;
		with_alpn = 1;
		was = WAS_TLS;
		packet->offers = found_names.offers;
		packet->offers_length = found_names.offers_end - found_names.offers;
	} else if (scratch->data[0] >= 0x80 || (scratch->data[0] < ' ' && scratch->data[0] != '\r' &&
						scratch->data[0] != '\n')) {
		return WAS_OPAQUE << WAS_SHIFT;
	} else {
		if (!read_request(size, &found_names))
			return UNREAD;
		if (!look_up_name(found_names.name, found_names.name_length, &vectors))
			return UNREAD;
		content = vectors.host;
		was = WAS_HTTP1;
	}
	packet->name = found_names.name;
	packet->name_length = found_names.name_length;
	packet->service_port = found_names.service_port;
	return (first_match(&packet->found, content, with_alpn) & (0xff | MATCH_BITS)) | was << WAS_SHIFT;
}

/* The class by the names that are kept of a connection, and by what class_of_packet() has found; 0 if that cannot be
 * told. */
__noinline __u32 class_of_kept(struct packet *packet, struct flow *flow)
{
	struct name_vectors vectors = { NO_NAME, NO_CONTENT, NO_NAME };
	struct settings *settings = settings_in_force();
	struct scratch *scratch = scratch_memory();
	__u32 tls, offers;

	if (!packet || !flow || !scratch || !settings)
		return 0;
	tls = flow->kept == 1 + WAS_TLS;
	offers = flow->offers_length ? KEPT_NAME : 0;
	__builtin_memcpy(scratch->data, flow->name, KEPT_NAME);
	__builtin_memcpy(scratch->data + KEPT_NAME, flow->offers, KEPT_OFFERS);
	if (flow->name_length && !look_up_name(0, flow->name_length, &vectors))
		return 0;
	if (tls && !unite_offers(offers, offers + flow->offers_length))
		return 0;
	if (flow->service_port) {
		if (!(settings->flags & READS_SERVICES) || !narrow_by_port(scratch, flow->service_port))
			return 0;
		vectors.sni = vectors.service;
	}
	return first_match(&packet->found, tls ? vectors.sni : vectors.host, tls) & 0xff;
}

/* Copy a word if the name goes on there. */
static __always_inline void keep_word(struct scratch *scratch, __u8 *to, __u32 from, __u32 length, __u32 at)
{
	if (at < length)
		*(__u64 *)(to + at) = WORD_AT(scratch, from + at);
}

/* Keep what class_of_data() has read, which is in the scratch memory still: a call to read it again would take longer. */
static __always_inline void keep(const struct packet *packet, struct flow *flow, __u32 was)
{
	__u32 name_length = packet->name_length, offers_length = packet->offers_length;
	struct scratch *scratch = scratch_memory();

	flow->kept = 0;
	flow->name_length = name_length;
	flow->offers_length = offers_length;
	flow->service_port = packet->service_port;
	if (!scratch || name_length > KEPT_NAME || offers_length > KEPT_OFFERS)
		return;
#pragma clang loop unroll(full)
	for (int i = 0; i < KEPT_NAME / 8; i++)
		keep_word(scratch, flow->name, packet->name, name_length, i * 8);
#pragma clang loop unroll(full)
	for (int i = 0; i < KEPT_OFFERS / 8; i++)
		keep_word(scratch, flow->offers, packet->offers, offers_length, i * 8);
	flow->kept = 1 + was;
}

/* At the node's end priority and mark would go on into the node's own rules and queues. So the program is the filter of
 * the queue itself there, which takes its answer. */
static __always_inline int send_in(struct __sk_buff *skb, const struct settings *settings, __u32 class_id)
{
	if (settings->flags & AT_NODE) {
		skb->tc_classid = (LEAF & 0xffff) | class_id;
		return TC_ACT_OK;
	}
	skb->priority = LEAF | class_id;
	skb->mark = (skb->mark & ~MARK_BITS) | class_id << CLASS_SHIFT;
	return TC_ACT_UNSPEC;
}

/* Whether the packet's socket is that of its connection. RSTs, and the ACKs of TIME_WAIT, are sent by sockets that many
 * connections share, and raw packets by others; none of these may keep or find a verdict. A mesh's proxy answers from the
 * port to which nat has led it; on the wire it is that which the client meant. */
static __always_inline int of_connection(struct bpf_sock *sk, const struct packet *packet, const struct settings *settings)
{
	__u32 state = sk->state;

	if (state != BPF_TCP_ESTABLISHED && state != BPF_TCP_SYN_SENT && state != BPF_TCP_FIN_WAIT1 &&
	    state != BPF_TCP_CLOSE_WAIT && state != BPF_TCP_LAST_ACK && state != BPF_TCP_CLOSING)
		return 0;
	if (sk->protocol != IPPROTO_TCP)
		return 0;
	return sk->src_port == bpf_ntohs(packet->source_port) ||
	       (settings->proxy_port && sk->src_port == settings->proxy_port);
}

/* Whether a program listens where the packet comes from, at its socket's port: then it answers a client. */
static __always_inline int answers(struct __sk_buff *skb, const struct packet *packet, __u16 port,
				   const struct settings *settings)
{
	struct bpf_sock_tuple ends = {};
	struct bpf_sock *sk;
	int listens;

	/* From port 0 there is no connection, so that only a listener is found. */
	if (packet->version == 4) {
		ends.ipv4.saddr = packet->destination[3];
		ends.ipv4.daddr = packet->source[3];
		ends.ipv4.dport = port;
		sk = bpf_skc_lookup_tcp(skb, &ends, sizeof(ends.ipv4), (__s64)settings->sockets, 0);
	} else {
		__builtin_memcpy(ends.ipv6.saddr, packet->destination, 16);
		__builtin_memcpy(ends.ipv6.daddr, packet->source, 16);
		ends.ipv6.dport = port;
		sk = bpf_skc_lookup_tcp(skb, &ends, sizeof(ends.ipv6), (__s64)settings->sockets, 0);
	}
	if (!sk)
		return 0;
	listens = sk->state == BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return listens;
}

static __always_inline int exists(const struct settings *settings, __u8 class_id)
{
	return settings->class_ids[class_id >> 6 & 3] >> (class_id & 63) & 1;
}

/* Whether what arrives in this class has a limit of its own. */
static __always_inline int receives(const struct settings *settings, __u8 class_id)
{
	return settings->received_ids[class_id >> 6 & 3] >> (class_id & 63) & 1;
}

/* What user space has said about a connection that it was shown. */
static __always_inline void take_answer(const struct settings *settings, struct flow *flow)
{
	__u64 cookie = flow->cookie;
	struct verdict *verdict = bpf_map_lookup_elem(&verdicts, &cookie);

	if (!verdict || verdict->first_byte != flow->first_byte)
		return;
	if (verdict->class_id && exists(settings, verdict->class_id)) {
		flow->class_id = verdict->class_id;
		flow->by = BY_CONTENT;
	}
	flow->state = DECIDED;
	bpf_map_delete_elem(&verdicts, &cookie);
}

/* Decide by the packet's data, or show it. */
static __always_inline void read_or_show(struct __sk_buff *skb, struct packet *packet, const struct settings *settings,
					 struct flow *flow)
{
	__u32 behind = packet->sequence - flow->first_byte;
	__u32 found = UNREAD;

	if (flow->state == OPEN && packet->sequence == flow->first_byte) {
		packet->found = flow->found;
		found = class_of_data(skb, packet);
	}
	if (found & UNREAD) {
		flow->state = ASKED;
		if (behind < PATIENCE) {
			if (behind >= MOST_SHOWN || flow->shown == MOST_PACKETS)
				return; /* an answer may still come */
			if (show(skb, packet, flow->cookie, flow->first_byte)) {
				flow->shown++;
				return;
			}
		}
		found = WAS_MISSED << WAS_SHIFT;
	}
	if (found & 0xff) {
		flow->class_id = found;
		flow->by = BY_CONTENT;
		keep(packet, flow, WAS(found));
		if (flow->kept && flow->name_length)
			see(packet, (struct kept_name *)flow->name, flow->name_length, found, WAS(found));
	} else {
		found |= class_of_packet(packet) & MATCH_BITS;
	}
	flow->state = DECIDED;
	count(flow->class_id, WAS(found));
	hit(found);
}

/* The packet as one of the client who has opened its connection. */
static __always_inline void turn(struct packet *packet)
{
	__u16 port = packet->source_port;
	__u32 address[4];

	__builtin_memcpy(address, packet->source, 16);
	__builtin_memcpy(packet->source, packet->destination, 16);
	__builtin_memcpy(packet->destination, address, 16);
	packet->source_port = packet->destination_port;
	packet->destination_port = port;
	packet->kind = KIND_INBOUND;
}

/* A new verdict, of a connection that is older than this program, or that a client has opened: then what he says first may
 * decide, unless some of it has passed unseen. */
static __always_inline struct flow *begin(struct bpf_sock *sk, int inbound)
{
	struct flow *flow = bpf_sk_storage_get(&flows, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct bpf_tcp_sock *tcp;

	if (!flow)
		return 0;
	flow->cookie = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	flow->state = DECIDED;
	flow->by = BY_PACKET;
	flow->inbound = inbound;
	if (inbound) {
		tcp = bpf_tcp_sock(sk);
		if (tcp && !tcp->bytes_received) {
			flow->first_byte = tcp->rcv_nxt;
			flow->state = OPEN;
			flow->begun = moment();
		}
	}
	return flow;
}

/* Bring the verdict up to date with the policy, and with what user space has said. What the packet alone says is the same
 * for all packets of a connection, so it is looked up once for each policy. */
static __always_inline void refresh(const struct settings *settings, struct packet *packet, struct flow *flow)
{
	__u32 class_id, again = 0;

	if (flow->generation != settings->generation) {
		class_id = class_of_packet(packet);
		flow->found = packet->found;
		if (flow->kept)
			again = class_of_kept(packet, flow);
		if (again)
			flow->class_id = again;
		else if (flow->by == BY_PACKET || !exists(settings, flow->class_id))
			flow->class_id = class_id & 0xff;
		if (!(class_id & CONTENT_DECIDES)) {
			flow->state = DECIDED;
			if (!flow->generation) /* it has just begun */
				hit(class_id);
		}
		flow->generation = settings->generation;
	}
	if (flow->state == ASKED)
		take_answer(settings, flow);
}

/* Show a datagram that may begin a connection. Returns the class that its flow has already; 0: none. */
static __always_inline __u32 show_datagram(struct __sk_buff *skb, struct packet *packet, const struct settings *settings,
					   __u32 by_packet, int begins)
{
	__u32 class_id = class_of_flow(packet);

	if (!exists(settings, class_id))
		class_id = 0;
	if (begins && !show(skb, packet, 0, class_id) && !class_id)
		count(by_packet, WAS_MISSED);
	return class_id;
}

/* A packet without a connection in the kernel. */
static __always_inline int send_datagram(struct __sk_buff *skb, struct packet *packet, const struct settings *settings)
{
	__u32 by_packet, class_id;
	int begins;

	if (settings->flags & HEARS_QUIC && packet->kind == KIND_UDP) {
		class_id = class_of_answer(packet);
		if (class_id && exists(settings, class_id))
			return send_in(skb, settings, class_id);
	}
	by_packet = class_of_packet(packet);
	if (!(by_packet & CONTENT_DECIDES))
		return send_in(skb, settings, by_packet & 0xff);
	begins = may_begin_quic(skb, packet, settings);
	if (begins && settings->flags & BLOCKS_QUIC)
		return TC_ACT_SHOT;
	class_id = show_datagram(skb, packet, settings, by_packet, begins);
	return send_in(skb, settings, class_id ? class_id : by_packet & 0xff);
}

/* A packet whose class is not known yet. */
static __noinline int decide(struct __sk_buff *skb, struct settings *settings, struct flow *flow)
{
	struct bpf_sock *sk = skb->sk;
	struct packet packet = {};

	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (!read_packet(skb, &packet))
		return send_in(skb, settings, DEFAULT_CLASS);
	if (packet.kind != KIND_TCP)
		return send_datagram(skb, &packet, settings);
	if (!sk || !of_connection(sk, &packet, settings)) {
		if ((packet.flags & (FLAG_SYN | FLAG_ACK)) == (FLAG_SYN | FLAG_ACK))
			turn(&packet);
		return send_in(skb, settings, class_of_packet(&packet) & 0xff);
	}
	if (!flow) {
		flow = begin(sk, sk->state != BPF_TCP_SYN_SENT &&
					 answers(skb, &packet, bpf_htons(sk->src_port), settings));
		if (!flow)
			return send_in(skb, settings, class_of_packet(&packet) & 0xff);
	}
	if ((packet.flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN) {
		flow->first_byte = packet.sequence;
		flow->by = BY_PACKET;
		flow->shown = flow->inbound = flow->kept = 0;
		flow->state = OPEN;
		flow->begun = moment();
		flow->generation = 0; /* no policy has this one */
	}
	if (flow->inbound) {
		turn(&packet);
		packet.data_length = 0; /* what a server says does not decide */
	}
	refresh(settings, &packet, flow);
	if (flow->state != DECIDED && packet.data_length)
		read_or_show(skb, &packet, settings, flow);
	return send_in(skb, settings, flow->class_id);
}

SEC("tc") int podlane_egress(struct __sk_buff *skb)
{
	struct settings *settings = settings_in_force();
	struct bpf_sock *sk = skb->sk;
	struct flow *flow = 0;

	if (!settings)
		return TC_ACT_UNSPEC;
	if (sk) {
		flow = bpf_sk_storage_get(&flows, sk, 0, 0);
		/* A socket may be connected again: then a SYN comes before anything else. */
		if (flow && flow->state == DECIDED && flow->generation == settings->generation &&
		    sk->state != BPF_TCP_SYN_SENT)
			return send_in(skb, settings, flow->class_id);
	}
	return decide(skb, settings, flow);
}

/* Read what a client says first. Its packets themselves are left as they are. */
static __always_inline void hear(struct __sk_buff *skb, struct packet *packet, const struct settings *settings,
				 struct bpf_sock *sk)
{
	struct flow *flow = bpf_sk_storage_get(&flows, sk, 0, 0);

	if (!flow) {
		/* Turned for a moment: whether there is a listener at our end. */
		turn(packet);
		flow = answers(skb, packet, bpf_htons(sk->src_port), settings) ? begin(sk, 1) : 0;
		turn(packet);
	}
	if (!flow || !flow->inbound || (flow->state == DECIDED && flow->generation == settings->generation))
		return;
	refresh(settings, packet, flow);
	if (flow->state != DECIDED)
		read_or_show(skb, packet, settings, flow);
}

/* Read what a client begins a connection of QUIC with. */
static __always_inline void hear_datagram(struct __sk_buff *skb, struct packet *packet, const struct settings *settings)
{
	__u32 by_packet;

	if (!(settings->flags & HEARS_QUIC) || !may_begin_quic(skb, packet, settings))
		return;
	packet->kind = KIND_INBOUND_UDP;
	by_packet = class_of_packet(packet);
	if (by_packet & CONTENT_DECIDES)
		show_datagram(skb, packet, settings, by_packet, 1);
}

static __always_inline int may_receive(const struct bpf_sock *sk)
{
	return sk->state == BPF_TCP_ESTABLISHED || sk->state == BPF_TCP_CLOSE_WAIT || sk->state == BPF_TCP_FIN_WAIT1 ||
	       sk->state == BPF_TCP_FIN_WAIT2;
}

SEC("tc") int podlane_ingress(struct __sk_buff *skb)
{
	struct settings *settings = settings_in_force();
	struct packet packet = {};
	struct bpf_sock *found, *sk;

	if (!settings || !read_packet(skb, &packet) || !packet.data_length)
		return TC_ACT_UNSPEC;
	if (packet.kind == KIND_UDP)
		hear_datagram(skb, &packet, settings);
	if (packet.kind != KIND_TCP)
		return TC_ACT_UNSPEC;
	packet.kind = KIND_INBOUND;
	found = receiver(skb, &packet, settings);
	if (!found)
		return TC_ACT_UNSPEC;
	sk = bpf_sk_fullsock(found);
	if (sk && may_receive(sk))
		hear(skb, &packet, settings, sk);
	bpf_sk_release(found);
	return TC_ACT_UNSPEC;
}

/* What goes to the Pod, at the node's end of its link: its clients are heard, and what belongs to a connection that a name
 * has decided is in that class. All else is left to the filters of the queue, which look at packets. Another namespace
 * clears the priority. */
SEC("tc") int podlane_to_pod(struct __sk_buff *skb)
{
	struct settings *settings = settings_in_force();
	struct packet packet = {};
	struct bpf_sock *found, *sk;
	__u32 class_id = 0;
	struct flow *flow;

	if (!settings || !read_packet(skb, &packet))
		return TC_ACT_UNSPEC;
	if (packet.kind == KIND_UDP) {
		hear_datagram(skb, &packet, settings);
		class_id = class_of_flow(&packet);
		if (!class_id)
			class_id = class_of_answer(&packet);
	} else if (packet.kind == KIND_TCP) {
		packet.kind = KIND_INBOUND;
		found = receiver(skb, &packet, settings);
		if (!found)
			return TC_ACT_UNSPEC;
		sk = bpf_sk_fullsock(found);
		if (sk && may_receive(sk)) {
			if (packet.data_length)
				hear(skb, &packet, settings, sk);
			flow = bpf_sk_storage_get(&flows, sk, 0, 0);
			if (flow && flow->by == BY_CONTENT)
				class_id = flow->class_id;
		}
		bpf_sk_release(found);
	}
	if (class_id && exists(settings, class_id))
		skb->priority = LEAF | (receives(settings, class_id) ? class_id : DEFAULT_CLASS);
	return TC_ACT_UNSPEC;
}

/* For tests (BPF_PROG_TEST_RUN): what a packet with a connection's first data would be sent in. The class by the packet
 * alone is in the priority, with CONTENT_DECIDES; what class_of_data() says in the mark.
 * A mark before that asks about a packet of a client who opens a connection to us. */
SEC("tc") int podlane_judge(struct __sk_buff *skb)
{
	struct packet packet = {};
	__u32 inbound = skb->mark;

	skb->mark = 0;
	if (!read_packet(skb, &packet)) {
		skb->priority = DEFAULT_CLASS;
		return TC_ACT_UNSPEC;
	}
	if (inbound && packet.kind == KIND_TCP)
		packet.kind = KIND_INBOUND;
	else if (inbound && packet.kind == KIND_UDP)
		packet.kind = KIND_INBOUND_UDP;
	skb->priority = class_of_packet(&packet) & ~MATCH_BITS;
	if (packet.kind == KIND_TCP || packet.kind == KIND_INBOUND)
		skb->mark = class_of_data(skb, &packet) & ~MATCH_BITS;
	return TC_ACT_UNSPEC;
}

/* For lists of connections, see carried.h. */
SEC("tc") int podlane_carried(struct __sk_buff *skb)
{
	struct asking asking = { skb, settings_in_force() };

	if (asking.settings)
		bpf_loop(MOST_ASKED, look_at_socket, &asking, 0);
	return TC_ACT_OK;
}

/* No helper that is for GPL programs alone is called. */
char podlane_license[] SEC("license") = "Apache-2.0";
