"""The audit trail: sealing, verification, replay, exports, retention and reports."""
