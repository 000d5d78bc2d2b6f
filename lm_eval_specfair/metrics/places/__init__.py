"""Where drafts are lost: by place in the text, by draft position, by token."""
