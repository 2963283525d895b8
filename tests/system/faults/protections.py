"""Each protection, how it is taken out, and the test that must go red then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A text of a file, and what takes its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Protection:
    """One protection."""

    fault: str
    """What it protects from."""
    name: str
    test: str
    """A pytest node id."""
    changes: tuple[Change, ...]


HERE = "tests/system/faults/"

LIVENESS = "tests/system/test_liveness.py"

UNWELL_HOST = f"{HERE}test_hosts.py::test_nothing_succeeds_before_the_host_says_so"

RESEND = Change(
    "shared/storage/dispatch.py",
    """                StopTask.sent_at.is_(None),
                StopTask.sent_at <= now - literal(resend_after, Interval),
""",
    """                StopTask.sent_at.is_(None),
""",
)

NO_WAKE_ON_FAILURE = Change(
    "api/accepted.py",
    "    except BrokerUnavailableError as error:",
    "    except ZeroDivisionError as error:",
)

NO_OUTAGE_IS_KNOWN = (
    Change(
        "shared/database.py",
        "    except (OperationalError, InterfaceError) as error:",
        "    except ZeroDivisionError as error:",
    ),
    Change(
        "shared/database.py",
        "    except (psycopg.OperationalError, psycopg.InterfaceError) as error:",
        "    except ZeroDivisionError as error:",
    ),
)

PROTECTIONS = (
    Protection(
        "API killed between commit and send",
        "what was sent and not claimed is sent again",
        f"{HERE}test_api_dies.py::test_killed_after_the_commit",
        (RESEND,),
    ),
    Protection(
        "API killed between commit and send",
        "a repeated request is answered as the first",
        f"{HERE}test_api_dies.py::test_killed_after_the_commit",
        (
            Change(
                "shared/services/batch_stop.py",
                "        if earlier is not None:",
                "        if earlier is None and earlier is not None:",
            ),
        ),
    ),
    Protection(
        "worker killed before the claim",
        "what was sent and not claimed is sent again",
        f"{HERE}test_worker_dies.py::test_killed[worker.received]",
        (RESEND,),
    ),
    Protection(
        "worker killed between claim and settling",
        "a lease that ran out gives the stop back",
        f"{HERE}test_worker_dies.py::test_killed[worker.claimed]",
        (
            Change(
                "workers/dispatcher.py",
                "release_expired(session, limit=ROWS_PER_STATEMENT)",
                "release_expired(session, limit=0)",
            ),
        ),
    ),
    Protection(
        "worker killed after the force stop",
        "the host is asked before it is told",
        f"{HERE}test_worker_dies.py::test_killed_after_the_force_stop_asks_the_host_first",
        (
            Change(
                "workers/turns.py",
                "        before = self._ask()\n",
                "        before = PowerState.RUNNING\n",
            ),
        ),
    ),
    Protection(
        "worker frozen past its lease",
        "settling wants the lease and the attempt of the claim (I4)",
        f"{HERE}test_worker_dies.py::test_frozen_past_its_lease[worker.turn_taken]",
        (
            Change(
                "shared/storage/settling.py",
                """        StopTask.attempt == bindparam("turn"),
        is_still(StopTask.state, StopState.STOPPING),
        StopTask.lease_expires_at > now,
    )
    .with_for""",
                """        bindparam("turn", type_=Integer) > 0,
    )
    .with_for""",
            ),
        ),
    ),
    Protection(
        "worker frozen past its lease",
        "settling wants the attempt, also of a stop that is claimed",
        f"{HERE}test_worker_dies.py::test_frozen_turn_is_not_settled_over_a_new_claim",
        (
            Change(
                "shared/storage/settling.py",
                """        StopTask.attempt == bindparam("turn"),
        is_still(StopTask.state, StopState.STOPPING),
        StopTask.lease_expires_at > now,
    )
    .with_for""",
                """        bindparam("turn", type_=Integer) > 0,
        is_still(StopTask.state, StopState.STOPPING),
        StopTask.lease_expires_at > now,
    )
    .with_for""",
            ),
        ),
    ),
    Protection(
        "worker frozen past its lease",
        "a turn's time counts from before the claim: nothing is sent late",
        f"{HERE}test_worker_dies.py::test_frozen_past_its_lease[worker.claimed]",
        (
            Change(
                "workers/turns.py",
                "deadline=began + settings.turn_limit",
                "deadline=time.monotonic() + settings.turn_limit",
            ),
        ),
    ),
    Protection(
        "broker restarted empty",
        "what was sent and not claimed is sent again",
        f"{HERE}test_broker_away.py::test_messages_are_lost[broker restarted empty]",
        (RESEND,),
    ),
    Protection(
        "broker flushed",
        "what was sent and not claimed is sent again",
        f"{HERE}test_broker_away.py::test_messages_are_lost[broker flushed]",
        (RESEND,),
    ),
    Protection(
        "broker connections cut",
        "a message that was taken for good is never acknowledged",
        f"{HERE}test_broker_away.py::test_connections_cut_over_and_over",
        (
            Change(
                "workers/tasks.py",
                '{"Request": REQUEST} if takes_without_acknowledging(app) else {}',
                "{} if takes_without_acknowledging(app) else {}",
            ),
        ),
    ),
    Protection(
        "broker full",
        "an accepted batch is answered whatever the broker says (I7)",
        f"{HERE}test_broker_away.py::test_accepts_meanwhile[_full]",
        (NO_WAKE_ON_FAILURE,),
    ),
    Protection(
        "broker hangs",
        "no step of a send waits longer than CVMSTOP_BROKER_TIMEOUT (I7)",
        f"{HERE}test_broker_away.py::test_accepts_meanwhile[_frozen]",
        (
            Change(
                "shared/broker.py",
                """        "socket_timeout": settings.broker_timeout,
        "socket_keepalive": True,
        "max_retries": 0,
""",
                """        "socket_keepalive": True,
        "max_retries": 0,
""",
            ),
        ),
    ),
    Protection(
        "messages return from the dead, or come many times",
        "a claim wants a stop that waits",
        f"{HERE}test_broker_away.py::test_messages_come_many_times",
        (
            Change(
                "shared/storage/claims.py",
                "IS_WAITING = is_still(StopTask.state, *WAITING_STATES)",
                "IS_WAITING = ~is_still(StopTask.state, *WAITING_STATES)",
            ),
        ),
    ),
    Protection(
        "PostgreSQL killed",
        "settling is tried again while the claim stands",
        f"{HERE}test_database_away.py::test_turns_under_way_are_settled_afterwards[_killed]",
        (
            Change(
                "workers/stops.py",
                "stop=stop_after_delay(parts.settings.lease - (time.monotonic() - began)),",
                "stop=stop_after_delay(0),",
            ),
        ),
    ),
    Protection(
        "PostgreSQL hangs",
        "no answer of the database is waited for without end",
        f"{HERE}test_database_away.py::test_refuses_meanwhile[_frozen]",
        (
            Change(
                "shared/engine.py",
                "connection.answer_timeout = settings.database_timeout + 1",
                "connection.answer_timeout = None",
            ),
        ),
    ),
    Protection(
        "PostgreSQL out of connections, or its disk full",
        "each way in which the database says no is a 503",
        f"{HERE}test_database_away.py::test_refuses_meanwhile[_out_of_connections]",
        NO_OUTAGE_IS_KNOWN,
    ),
    Protection(
        "PostgreSQL's disk full",
        "each way in which the database says no is a 503",
        f"{HERE}test_disk_full.py::test_of_postgresql",
        NO_OUTAGE_IS_KNOWN,
    ),
    Protection(
        "broker's disk full",
        "an accepted batch is answered whatever the broker says (I7)",
        f"{HERE}test_disk_full.py::test_of_the_broker",
        (NO_WAKE_ON_FAILURE,),
    ),
    Protection(
        "broker's disk full",
        "an error that the broker answers is a lost connection",
        f"{HERE}test_disk_full.py::test_of_the_broker",
        (
            Change(
                "workers/app.py",
                "broker_channel_error_retry=True",
                "broker_channel_error_retry=False",
            ),
        ),
    ),
    Protection(
        "worker that lives and takes no messages",
        "a worker judges itself by the messages that come through",
        f"{LIVENESS}::test_one_that_consumes_no_more_lets_its_turns_end_and_then_ends",
        (
            Change(
                "workers/heartbeat.py",
                "            self._give_up()\n            return\n",
                "            return\n",
            ),
        ),
    ),
    Protection(
        "dispatcher killed before sending",
        "what was sent and not claimed is sent again",
        f"{HERE}test_dispatcher.py::test_killed_before_sending",
        (RESEND,),
    ),
    Protection(
        "two dispatchers at once",
        "a row that another one is taking is passed over",
        "tests/workers/test_dispatcher.py"
        "::TestSending::test_what_another_dispatcher_is_taking_is_passed_over",
        (
            Change(
                "shared/storage/dispatch.py",
                """        .limit(func.greatest(room.c.places, 0))
        .with_for_update(skip_locked=True, key_share=True)""",
                """        .limit(func.greatest(room.c.places, 0))
        .with_for_update(key_share=True)""",
            ),
        ),
    ),
    Protection(
        "dispatcher's clock wrong",
        "every time is the database's",
        f"{HERE}test_dispatcher.py::test_clock_is_wrong[1]",
        (
            Change(
                "shared/storage/clock.py",
                "now = func.clock_timestamp()",
                "from datetime import UTC, datetime\nfrom sqlalchemy import DateTime, bindparam\n"
                'now = bindparam("clock", callable_=lambda: datetime.now(UTC),'
                " type_=DateTime(timezone=True))",
            ),
        ),
    ),
    Protection(
        "beat dead, frozen or cut off",
        "a dispatcher without ticks runs rounds by itself",
        f"{HERE}test_dispatcher.py::test_beat_frozen",
        (Change("workers/ticks.py", "            self._run_round()\n", "            pass\n"),),
    ),
    Protection(
        "host refuses connections",
        "an unreachable host is tried until the deadline",
        f"{HERE}test_hosts.py::test_refused",
        (
            Change(
                "shared/models/decisions.py",
                "failure.fate is Fate.FINAL or",
                "failure.fate in {Fate.FINAL, Fate.UNREACHABLE} or",
            ),
        ),
    ),
    Protection(
        "host a black hole",
        "an unreachable host is tried until the deadline",
        f"{UNWELL_HOST}[black hole]",
        (
            Change(
                "shared/models/decisions.py",
                "failure.fate is Fate.FINAL or",
                "failure.fate in {Fate.FINAL, Fate.UNREACHABLE} or",
            ),
        ),
    ),
    Protection(
        "host hangs after accepting a force stop",
        "a force stop without an answer may have been carried out: the host is asked again",
        f"{UNWELL_HOST}[hangs after a force stop]",
        (
            Change(
                "workers/turns.py",
                "            if error.fate is Fate.UNREACHABLE:\n",
                "            if error.fate in {Fate.UNREACHABLE, Fate.UNKNOWN}:\n",
            ),
            Change(
                "shared/models/decisions.py",
                "failure.fate is Fate.FINAL or",
                "failure.fate in {Fate.FINAL, Fate.UNKNOWN} or",
            ),
        ),
    ),
    Protection(
        "host cut in the middle of an answer",
        "part of an answer is none",
        f"{UNWELL_HOST}[cut in mid-answer]",
        (
            Change(
                "shared/models/decisions.py",
                "failure.fate is Fate.FINAL or",
                "failure.fate in {Fate.FINAL, Fate.TRANSIENT, Fate.UNREACHABLE, Fate.UNKNOWN} or",
            ),
        ),
    ),
    Protection(
        "host answers 500",
        "a transient failure is tried again",
        f"{UNWELL_HOST}[500]",
        (
            Change(
                "shared/models/decisions.py",
                "failure.fate is Fate.FINAL or",
                "failure.fate in {Fate.FINAL, Fate.TRANSIENT} or",
            ),
        ),
    ),
    Protection(
        "host answers garbage",
        "a transient failure is tried again",
        f"{UNWELL_HOST}[garbage]",
        (
            Change(
                "shared/models/decisions.py",
                "failure.fate is Fate.FINAL or",
                "failure.fate in {Fate.FINAL, Fate.TRANSIENT} or",
            ),
        ),
    ),
    Protection(
        "host drips its answer",
        "the whole of an answer has a time-out, not each byte",
        f"{UNWELL_HOST}[drips]",
        (
            Change(
                "workers/drivers/bounded_network.py",
                "return _left(self.deadline)",
                "return 30.0",
            ),
        ),
    ),
    Protection(
        "host's certificate expired",
        "TLS is verified",
        f"{HERE}test_hosts.py::test_certificate_expired",
        (
            Change(
                "workers/drivers/tls.py",
                "    context.minimum_version = ssl.TLSVersion.TLSv1_2\n",
                "    context.minimum_version = ssl.TLSVersion.TLSv1_2\n"
                "    context.check_hostname = False\n"
                "    context.verify_mode = ssl.CERT_NONE\n",
            ),
        ),
    ),
    Protection(
        "VM stopping for ever",
        "done only when the host says down (I5)",
        f"{UNWELL_HOST}[stopping for ever]",
        (
            Change(
                "workers/turns.py",
                "        reach(Failpoint.WORKER_FORCE_STOPPED)\n",
                "        if refusal is None:\n            return self._result(is_down=True)\n",
            ),
        ),
    ),
    Protection(
        "VM back up right after the stop",
        "done only when the host says down (I5)",
        f"{HERE}test_hosts.py::test_machine_comes_back_after_the_force_stop[0.0]",
        (
            Change(
                "workers/turns.py",
                "        reach(Failpoint.WORKER_FORCE_STOPPED)\n",
                "        if refusal is None:\n            return self._result(is_down=True)\n",
            ),
        ),
    ),
    Protection(
        "worker told to end in the middle of 200 turns",
        "turns are finished first",
        f"{HERE}test_upgrade.py::test_worker_told_to_end_in_the_middle_of_200_turns",
        (
            Change(
                "workers/pool.py",
                "    def on_apply(",
                "    def on_stop(self) -> None:\n"
                "        import os\n\n        os._exit(0)\n\n    def on_apply(",
            ),
        ),
    ),
)
